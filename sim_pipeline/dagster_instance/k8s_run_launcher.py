"""Dagster's launcher of runs as Kubernetes Jobs, which says what the API server said.

It also ends the Job of a run that Dagster gives up; dagster-k8s leaves a Job whose pod can't be
scheduled pending for ever.

dagster-k8s' own answers a refusal with "Unexpected error encountered in Kubernetes API Client" and
takes a run for dead whose Job it can't ask about: an API server that is away for a moment, as in
an upgrade of the cluster, would fail all runs under way, while their pods work on.
"""

import json
import logging
import time

import dagster as dg
from dagster._core.launcher import LaunchRunContext
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.dagster_run import FINISHED_STATUSES, DagsterRun
from dagster_k8s import K8sRunLauncher
from dagster_k8s.client import DagsterK8sAPIRetryLimitExceeded, DagsterK8sUnrecoverableAPIError
from dagster_k8s.job import get_job_name_from_run_id
from kubernetes.client import ApiException

from sim_pipeline.config import read_settings
from sim_pipeline.dagster_instance.removed_models import cancel_if_removed

_RUN_ID_LABEL = "dagster/run-id"
# In these a run is when run monitoring gives it up, as it did not start or end in time.
_GIVEN_UP = {
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.CANCELING,
}
# A pod is given a minute to end, see dagster.yaml, and its end takes a moment to be noticed.
_EXIT_SECONDS = 300.0

logger = logging.getLogger(__name__)


class LaunchError(Exception):
    """The Job of a run could not be made; the message is what Kubernetes says about it."""


class JobRunLauncher(K8sRunLauncher):
    """Launches each run as a Job; configured as dagster-k8s' `K8sRunLauncher` is."""

    def launch_run(self, context: LaunchRunContext) -> None:
        """Make the Job of a run, unless a model of the run is gone.

        Raises:
            LaunchError: the API server refused it, or did not answer four times in half a minute.
        """
        if cancel_if_removed(self._instance, context.dagster_run, read_settings().llm_models):
            return
        self._delete_jobs_left_behind()
        try:
            super().launch_run(context)
        except (DagsterK8sUnrecoverableAPIError, DagsterK8sAPIRetryLimitExceeded) as error:
            raise LaunchError(
                f"The Job of the run was not made: {_explained(error.k8s_api_exception)}"
            ) from error

    def get_run_worker_debug_info(
        self,
        run: DagsterRun,
        include_container_logs: bool | None = True,  # noqa: FBT001, FBT002 - Dagster's
    ) -> str | None:
        """Tell what Kubernetes knows of a run's pod; end its Job if the run is given up.

        Run monitoring asks this right before it marks a run that did not start, or end, in time.
        It also asks about a run whose pod failed: that Job has ended, and stays for who wants to
        look at its pod.
        """
        info: str | None = super().get_run_worker_debug_info(run, include_container_logs)
        if run.status in _GIVEN_UP:
            self._delete_job(get_job_name_from_run_id(run.run_id))  # type: ignore[no-untyped-call]
        return info

    def _delete_jobs_left_behind(self) -> None:
        """Delete the Jobs that still have a pod, or wait for one, long after their runs ended.

        They are of runs that were marked as ended while the API server did not answer.
        """
        try:
            jobs = self._api_client.batch_api.list_namespaced_job(
                self.job_namespace, label_selector=_RUN_ID_LABEL
            ).items
        except Exception as error:  # noqa: BLE001 - the client raises what urllib3 does, too
            logger.warning("The Jobs of ended runs could not be asked for: %s", _explained(error))
            return
        active = {
            job.metadata.labels[_RUN_ID_LABEL]: job.metadata.name
            for job in jobs
            if job.status.active
        }
        if not active:
            return
        ended = dg.RunsFilter(run_ids=list(active), statuses=FINISHED_STATUSES)
        for record in self._instance.get_run_records(ended):
            if time.time() - (record.end_time or 0) > _EXIT_SECONDS:
                self._delete_job(active[record.dagster_run.run_id])

    def _delete_job(self, name: str) -> None:
        try:
            self._api_client.delete_job(job_name=name, namespace=self.job_namespace)
        except Exception as error:  # noqa: BLE001 - as above
            logger.warning("Job %s of an ended run was not deleted: %s", name, _explained(error))

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Tell what became of a run's Job.

        Args:
            run: under way, as far as is known.

        Returns:
            UNKNOWN for a Job that is gone. While it can't be asked about, which is logged, RUNNING:
            that says nothing of the run, and it is asked about again in a moment.
        """
        health: CheckRunHealthResult = super().check_run_worker_health(run)
        gone = f"Job {get_job_name_from_run_id(run.run_id)} could not be found"  # type: ignore[no-untyped-call]
        if health.status is not WorkerStatus.UNKNOWN or health.msg == gone:
            return health
        logger.warning("Run %s: its Job could not be asked about: %s", run.run_id, health.msg)
        return CheckRunHealthResult(WorkerStatus.RUNNING, health.msg)


def _explained(error: Exception | None) -> str:
    """Say why a request failed: what the API server answered, or that it did not."""
    if not isinstance(error, ApiException):
        return f"Kubernetes' API server does not answer: {error}"
    try:
        said = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):  # from a proxy before it, say
        said = error.reason
    return f"Kubernetes' API server refuses it with {error.status}: {said}"
