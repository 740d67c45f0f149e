"""Dagster's run launcher for one machine: looks after the processes of runs, and ends them."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import dagster as dg
import psutil
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, WorkerStatus

from sim_pipeline.config import read_settings
from sim_pipeline.dagster_instance.removed_models import cancel_if_removed
from sim_pipeline.local_servers.processes import is_alive

if TYPE_CHECKING:
    from dagster import DagsterRun

logger = logging.getLogger(__name__)

# What a run's process reports about itself before anything else, its number in the metadata.
_ANNOUNCEMENT = "Started process for run "
# The kernel tells when a process was created to within a second, its report is exact; a process
# reports itself a second or more after its creation. What was created later than this after the
# report is another one, under a number that was free again.
_SLACK_SECONDS = 2.0
# From Dagster's decision that a run has ended to the end of its process: until then the run is
# marked, and the code server, which sees the process end, does not call that a crash.
_MARKING_SECONDS = 5.0


class LocalRunLauncher(dg.DefaultRunLauncher):
    """Launches runs as processes of the code server, and lets run monitoring look after them.

    The code server itself reports a process of its own that dies, but not if it died too, and
    never again once Dagster's storage was away at such a moment. So the daemon, which has to be on
    the code server's machine, looks for itself.
    """

    def launch_run(self, context: LaunchRunContext) -> None:
        """Have the code server start the run's process, unless a model of the run is gone."""
        if not cancel_if_removed(self._instance, context.dagster_run, read_settings().llm_models):
            super().launch_run(context)

    def terminate(self, run_id: str) -> bool:
        """Interrupt the process of a run; kill it if it has not ended in the time that it is given.

        Dagster's own launcher has the code server ask the process. One that is stopped (SIGSTOP),
        or hangs, does not answer; the code server waits for that for ever, and launches no run any
        more. A signal does the same, and waits for nothing.

        Returns:
            Whether a process was asked to end.
        """
        workers = self._living(run_id)
        if not workers:  # not begun, or executed by a process that no code server started
            return bool(super().terminate(run_id))  # type: ignore[no-untyped-call]
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        for pid, _ in workers:
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                process.send_signal(signal.SIGINT)
                process.resume()
        _kill_later(run_id, workers, self._instance.run_monitoring_cancel_timeout_seconds)
        return True

    def get_run_worker_debug_info(
        self,
        run: "DagsterRun",
        include_container_logs: bool | None = True,  # noqa: ARG002, FBT001, FBT002 - Dagster's
    ) -> str | None:
        """Kill the process of a run that is about to be marked as ended, and say so.

        Run monitoring asks this of a run that did not start, or end, in time.
        """
        workers = self._living(run.run_id)
        if not workers:
            return None
        _kill_later(run.run_id, workers, _MARKING_SECONDS)
        return f"Its process (pid {', '.join(str(pid) for pid, _ in workers)}) is killed"

    def _living(self, run_id: str) -> list[tuple[int, float]]:
        return [worker for worker in self._announced(run_id) if _lives(*worker)]

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


def _kill_later(run_id: str, workers: list[tuple[int, float]], seconds: float) -> None:
    timer = threading.Timer(seconds, _kill, (run_id, workers))
    # If this process ends before, run monitoring finds the run, or the next start its process.
    timer.daemon = True
    timer.start()


def _kill(run_id: str, workers: list[tuple[int, float]]) -> None:
    for pid, reported in workers:
        if _lives(pid, reported):
            logger.warning("Run %s: killing its process (pid %d), which did not end", run_id, pid)
            with suppress(psutil.Error):
                psutil.Process(pid).kill()
