"""The run launcher for Kubernetes: dagster-k8s' launcher, with four faults repaired.

- An error of the API server is reported with the server's own message. dagster-k8s reports
  "Unexpected error encountered in Kubernetes API Client".
- A run whose Job cannot be queried counts as running. dagster-k8s fails it, so a short outage of
  the API server, as in a cluster upgrade, would fail every run while its pod continues.
- The Job of a run that Dagster gives up is deleted. dagster-k8s leaves it, and a Job whose pod
  cannot be scheduled stays pending forever.
- A run whose Job ended before the run started is marked as failed at the next poll of run
  monitoring, and one whose pod cannot start after two minutes. Dagster does not ask about starting
  runs; they would occupy their slots until the start timeout.

It also adds the fields of `run_pods.yaml`, if there is one, to the specs of the runs' pods.
"""

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import dagster as dg
import yaml
from dagster._core.launcher import LaunchRunContext
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.dagster_run import FINISHED_STATUSES, DagsterRun, RunRecord
from dagster._daemon.monitoring import run_monitoring
from dagster._serdes import ConfigurableClassData
from dagster_k8s import K8sRunLauncher
from dagster_k8s.client import DagsterK8sAPIRetryLimitExceeded, DagsterK8sUnrecoverableAPIError
from dagster_k8s.job import UserDefinedDagsterK8sConfig, get_job_name_from_run_id
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
# A pod that cannot start for this long has been retried several times, for example with a registry
# that does not answer.
_BLOCKED_SECONDS = 120.0
# Reasons of containers that wait for a usual step, such as the pull of their image.
_STARTING_REASONS = {None, "ContainerCreating", "PodInitializing"}
# The end of dagster-k8s' event after the creation of a run's Job.
_JOB_CREATED = "Kubernetes run worker job created"
# In DAGSTER_HOME, beside dagster.yaml. k8s/components/placement has an example.
_RUN_PODS_FILE = "run_pods.yaml"

_monitor_start_timeout = run_monitoring.monitor_starting_run

logger = logging.getLogger(__name__)


class LaunchError(Exception):
    """The Job of a run could not be created; the message has Kubernetes' reason."""


class RunPodsError(Exception):
    """The file `run_pods.yaml` is not the spec of a pod; the message says why."""


class K8sJobRunLauncher(K8sRunLauncher):
    """Launches each run as a Job. Takes the same configuration as `K8sRunLauncher`."""

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        """Create the launcher from dagster.yaml and `run_pods.yaml`.

        Raises:
            RunPodsError: the file has a field that pods do not have, or is not a mapping.
        """
        file = Path(os.environ.get("DAGSTER_HOME", config_value["dagster_home"])) / _RUN_PODS_FILE
        run = config_value.get("run_k8s_config") or {}
        pod = {**_pod_fields(run.get("pod_spec_config")), **_read_run_pods(file)}
        launcher: Self = super().from_config_value(  # type: ignore[no-untyped-call]
            inst_data, {**config_value, "run_k8s_config": {**run, "pod_spec_config": pod}}
        )
        return launcher

    def register_instance(self, instance: dg.DagsterInstance) -> None:
        """Make run monitoring of this process ask about starting runs too.

        Dagster has no hook for it, so this replaces the function that checks a starting run.
        """
        super().register_instance(instance)
        run_monitoring.monitor_starting_run = _monitor_starting_run

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
        also calls this for a run whose pod failed. A Job that has ended stays, so that a person can
        examine its pod.
        """
        info: str | None = super().get_run_worker_debug_info(run, include_container_logs)
        if (
            run.status in _GIVEN_UP
            and self.check_run_worker_health(run).status is WorkerStatus.RUNNING
        ):
            self._delete_job(get_job_name_from_run_id(run.run_id))  # type: ignore[no-untyped-call]
        return info

    def _delete_leftover_jobs(self) -> None:
        """Delete Jobs that have not finished long after their runs ended, such as pending Jobs.

        Their runs were marked as ended while the API server did not answer.
        """
        try:
            jobs = self._api_client.batch_api.list_namespaced_job(
                self.job_namespace, label_selector=_RUN_ID_LABEL
            ).items
        except Exception as error:  # noqa: BLE001 - the client also raises urllib3's errors
            logger.warning("Could not list the Jobs of ended runs: %s", _reason(error))
            return
        unfinished = {
            job.metadata.labels[_RUN_ID_LABEL]: job.metadata.name
            for job in jobs
            if not (job.status.succeeded or job.status.failed)
        }
        if not unfinished:
            return
        ended = dg.RunsFilter(run_ids=list(unfinished), statuses=FINISHED_STATUSES)
        for record in self._instance.get_run_records(ended):
            if time.time() - (record.end_time or 0) > _EXIT_SECONDS:
                self._delete_job(unfinished[record.dagster_run.run_id])

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

    def failure_before_start(self, run: DagsterRun) -> str | None:
        """Return why a run in status STARTING will not start, and what Kubernetes knows of it.

        Its Job is deleted, unless it has ended.

        Returns:
            None if the run may still start. This includes a pod that waits for capacity, such as a
            node or quota: Dagster's start timeout applies to it.
        """
        reason = self._reason_not_to_start(run)
        if reason is None:
            return None
        current = self._instance.get_run_by_id(run.run_id)
        if current is None or current.status is not run.status:
            return None  # it started, and perhaps ended, since it was read
        return f"{reason}\n{self.get_run_worker_debug_info(run)}"

    def _reason_not_to_start(self, run: DagsterRun) -> str | None:
        health = self.check_run_worker_health(run)
        if health.status is WorkerStatus.RUNNING:
            launched = self._instance.get_run_stats(run.run_id).launch_time
            if launched is None or time.time() - launched < _BLOCKED_SECONDS:
                return None
            job_name = get_job_name_from_run_id(run.run_id)  # type: ignore[no-untyped-call]
            return self._blocked_reason(job_name)
        if health.status is WorkerStatus.UNKNOWN:
            # Dagster marks a run as starting before the launcher creates its Job.
            events = self._instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
            created = any(
                event.dagster_event and (event.dagster_event.message or "").endswith(_JOB_CREATED)
                for event in events
            )
            return health.msg if created else None
        return "The Job ended before the run started"

    def _blocked_reason(self, job_name: str) -> str | None:
        """Return why Kubernetes does not create or start the pod of a Job, None if it may."""
        pods = self._api_client.get_pods_in_job(job_name, self.job_namespace)
        for pod in pods:
            for container in pod.status.container_statuses or ():
                waiting = container.state.waiting
                if waiting and waiting.reason not in _STARTING_REASONS:
                    return f"Its pod cannot start: {waiting.reason}: {waiting.message}"
        if pods:
            return None
        events = self._api_client.core_api.list_namespaced_event(
            self.job_namespace, field_selector=f"involvedObject.name={job_name}"
        ).items
        for event in events:
            # As quota is released when other pods end, exceeded quota is like a full cluster.
            if event.reason == "FailedCreate" and "exceeded quota" not in event.message:
                return f"Kubernetes refuses its pod: {event.message}"
        return None


def _monitor_starting_run(
    instance: dg.DagsterInstance, run_record: RunRecord, logger: logging.Logger
) -> None:
    """Mark a run that will not start as failed; check Dagster's start timeout for the others."""
    launcher, run = instance.run_launcher, run_record.dagster_run
    failure = None
    if isinstance(launcher, K8sJobRunLauncher) and run.status is dg.DagsterRunStatus.STARTING:
        try:
            failure = launcher.failure_before_start(run)
        except Exception as error:  # noqa: BLE001 - the client also raises urllib3's errors
            logger.warning("Run %s: could not query its pod: %s", run.run_id, _reason(error))
    if failure is None:
        _monitor_start_timeout(instance, run_record, logger)
    else:
        instance.report_run_failed(run, f"The run did not start. {failure}")


def _read_run_pods(file: Path) -> Mapping[str, Any]:
    try:
        return _pod_fields(yaml.safe_load(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except Exception as error:  # dagster_k8s raises Exception itself
        raise RunPodsError(f"{file.name}: allowed are fields of a pod's spec: {error}") from error


def _pod_fields(spec: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the fields of a pod's spec by the names of the Python client, such as `node_selector`.

    Raises:
        Exception: a field does not exist, or is of another type.
    """
    fields: Mapping[str, Any] = UserDefinedDagsterK8sConfig(pod_spec_config=spec).pod_spec_config
    return fields


def _reason(error: Exception | None) -> str:
    """Return why a request failed: the API server's message, or that it did not answer."""
    if not isinstance(error, ApiException):
        return f"the Kubernetes API server does not answer: {error}"
    try:
        message = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):  # for example, the answer of a proxy
        message = error.reason
    return f"the Kubernetes API server refused the request with status {error.status}: {message}"
