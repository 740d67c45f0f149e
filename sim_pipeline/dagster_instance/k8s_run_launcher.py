"""The run launcher for Kubernetes: dagster-k8s' launcher, with three faults repaired.

- An error of the API server is reported with the server's own message. dagster-k8s reports
  "Unexpected error encountered in Kubernetes API Client".
- A run whose Job cannot be queried counts as running. dagster-k8s fails it, so a short outage of
  the API server, as in a cluster upgrade, would fail every run while its pod continues.
- The Job of a run that Dagster gives up is deleted. dagster-k8s leaves it, and a Job whose pod
  cannot be scheduled stays pending forever.
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
# The status of a run that run monitoring gives up because it did not start or end in time.
_GIVEN_UP = {
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.CANCELING,
}
# A pod has 60 s to end (k8s/base/dagster.yaml), and Kubernetes needs some time to notice the end.
_EXIT_SECONDS = 300.0

logger = logging.getLogger(__name__)


class LaunchError(Exception):
    """The Job of a run could not be created; the message has Kubernetes' reason."""


class K8sJobRunLauncher(K8sRunLauncher):
    """Launches each run as a Job. Takes the same configuration as `K8sRunLauncher`."""

    def launch_run(self, context: LaunchRunContext) -> None:
        """Create the Job of a run, or cancel the run if one of its models was removed.

        Raises:
            LaunchError: the API server refused the Job, or did not answer any of four requests
                within 30 s.
        """
        if cancel_if_removed(self._instance, context.dagster_run, read_settings().llm_models):
            return
        self._delete_leftover_jobs()
        try:
            super().launch_run(context)
        except (DagsterK8sUnrecoverableAPIError, DagsterK8sAPIRetryLimitExceeded) as error:
            raise LaunchError(
                f"Could not create the Job of the run: {_reason(error.k8s_api_exception)}"
            ) from error

    def get_run_worker_debug_info(
        self,
        run: DagsterRun,
        include_container_logs: bool | None = True,  # noqa: FBT001, FBT002 - Dagster's
    ) -> str | None:
        """Return what Kubernetes knows about a run's pod. Delete the Job of a run given up.

        Run monitoring calls this just before it marks a run that did not start or end in time. It
        also calls this for a run whose pod failed. That Job has ended and stays, so that a person
        can examine its pod.
        """
        info: str | None = super().get_run_worker_debug_info(run, include_container_logs)
        if run.status in _GIVEN_UP:
            self._delete_job(get_job_name_from_run_id(run.run_id))  # type: ignore[no-untyped-call]
        return info

    def _delete_leftover_jobs(self) -> None:
        """Delete Jobs that are still active long after their runs ended.

        Their runs were marked as ended while the API server did not answer.
        """
        try:
            jobs = self._api_client.batch_api.list_namespaced_job(
                self.job_namespace, label_selector=_RUN_ID_LABEL
            ).items
        except Exception as error:  # noqa: BLE001 - the client also raises urllib3's errors
            logger.warning("Could not list the Jobs of ended runs: %s", _reason(error))
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
            logger.warning("Could not delete Job %s of an ended run: %s", name, _reason(error))

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Return the status of a run's Job.

        Args:
            run: a run that Dagster believes to be in progress.

        Returns:
            dagster-k8s' result, with two rules: UNKNOWN means that the Job does not exist. If the
            query fails, which is logged, the result is RUNNING; run monitoring asks again soon.
        """
        health: CheckRunHealthResult = super().check_run_worker_health(run)
        gone = f"Job {get_job_name_from_run_id(run.run_id)} could not be found"  # type: ignore[no-untyped-call]
        if health.status is not WorkerStatus.UNKNOWN or health.msg == gone:
            return health
        logger.warning("Run %s: could not query its Job: %s", run.run_id, health.msg)
        return CheckRunHealthResult(WorkerStatus.RUNNING, health.msg)


def _reason(error: Exception | None) -> str:
    """Return why a request failed: the API server's message, or that it did not answer."""
    if not isinstance(error, ApiException):
        return f"the Kubernetes API server does not answer: {error}"
    try:
        message = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):  # for example, the answer of a proxy
        message = error.reason
    return f"the Kubernetes API server refused the request with status {error.status}: {message}"
