"""Dagster's launcher of runs as Kubernetes Jobs, which says what the API server said.

dagster-k8s' own answers a refusal with "Unexpected error encountered in Kubernetes API Client" and
takes a run for dead whose Job it can't ask about: an API server that is away for a moment, as in
an upgrade of the cluster, would fail all runs under way, while their pods work on.
"""

import json
import logging

from dagster._core.launcher import LaunchRunContext
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.dagster_run import DagsterRun
from dagster_k8s import K8sRunLauncher
from dagster_k8s.client import DagsterK8sAPIRetryLimitExceeded, DagsterK8sUnrecoverableAPIError
from dagster_k8s.job import get_job_name_from_run_id
from kubernetes.client import ApiException

logger = logging.getLogger(__name__)


class LaunchError(Exception):
    """The Job of a run could not be made; the message is what Kubernetes says about it."""


class JobRunLauncher(K8sRunLauncher):
    """Launches each run as a Job; configured as dagster-k8s' `K8sRunLauncher` is."""

    def launch_run(self, context: LaunchRunContext) -> None:
        """Make the Job of a run.

        Raises:
            LaunchError: the API server refused it, or did not answer four times in half a minute.
        """
        try:
            super().launch_run(context)
        except (DagsterK8sUnrecoverableAPIError, DagsterK8sAPIRetryLimitExceeded) as error:
            raise LaunchError(
                f"The Job of the run was not made: {_explained(error.k8s_api_exception)}"
            ) from error

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
