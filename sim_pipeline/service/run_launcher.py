"""Dagster's run launcher for one machine, able to tell whether a run's process still lives."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg
import psutil
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus

from sim_pipeline.service.processes import is_alive

if TYPE_CHECKING:
    from dagster import DagsterRun

# What a run's process reports about itself before anything else, its number in the metadata.
_ANNOUNCEMENT = "Started process for run "
# The kernel tells when a process was created to within a second, its report is exact; a process
# reports itself a second or more after its creation. What was created later than this after the
# report is another one, under a number that was free again.
_SLACK_SECONDS = 2.0


class LocalRunLauncher(dg.DefaultRunLauncher):
    """Launches runs as processes of the code server, and lets run monitoring look after them.

    The code server itself reports a process of its own that dies, but not if it died too, and
    never again once Dagster's storage was away at such a moment. So the daemon, which has to be on
    the code server's machine, looks for itself.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        """True: run monitoring is to ask."""
        return True

    def check_run_worker_health(self, run: "DagsterRun") -> CheckRunHealthResult:
        """Tell whether the process of a started run lives.

        Args:
            run: in status STARTED, as far as is known; it may have ended meanwhile.

        Returns:
            RUNNING, also of a run that no process of a code server reported for, such as one that
            a `dagster` command executes in itself; or FAILED, with what is missing.
        """
        workers = list(self._announced(run.run_id))
        if not workers or any(_lives(pid, reported) for pid, reported in workers):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        numbers = ", ".join(str(pid) for pid, _ in workers)
        return CheckRunHealthResult(
            WorkerStatus.FAILED, f"The process of the run (pid {numbers}) is gone"
        )

    def _announced(self, run_id: str) -> Iterator[tuple[int, float]]:
        """Yield the pid of each process that reported for the run, and when it did.

        There are two where the code server started one and its answer got lost: Dagster then
        launches the run again, and lets only one of them execute it.
        """
        events = self._instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
        for entry in events:
            event = entry.dagster_event
            if event is not None and (event.message or "").startswith(_ANNOUNCEMENT):
                yield int(str(event.engine_event_data.metadata["pid"].value)), entry.timestamp


def _lives(pid: int, reported: float) -> bool:
    try:
        process = psutil.Process(pid)
        return is_alive(process) and process.create_time() <= reported + _SLACK_SECONDS
    except psutil.Error:  # gone, or somebody else's
        return False
