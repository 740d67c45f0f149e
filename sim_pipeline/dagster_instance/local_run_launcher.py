"""The run launcher for one machine.

Runs are processes of the code server. This launcher also checks that they are alive, for Dagster's
run monitoring, and ends them with signals.
"""

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

# The first event of a run's process. Its metadata has the pid.
_STARTED_MESSAGE = "Started process for run "
# The kernel's creation time of a process is exact to a second. A process created later than this
# after the report is another process that got the same pid.
_SLACK_SECONDS = 2.0
# How long `terminate` waits for an interrupted process to exit.
_EXIT_SECONDS = 5.0
# Delay between Dagster's decision that a run has ended and the kill of its process. Dagster marks
# the run first; otherwise the code server would report the end of the process as a crash.
_MARKING_SECONDS = 5.0


class LocalRunLauncher(dg.DefaultRunLauncher):
    """Launches runs as processes of the code server, and supports run monitoring.

    The code server reports the death of its run processes, but not if it dies too, and not after
    Dagster's storage was unavailable at such a moment. So the daemon checks the processes. It must
    run on the code server's machine.
    """

    def launch_run(self, context: LaunchRunContext) -> None:
        """Have the code server start the run, or cancel it if one of its models was removed."""
        if not cancel_if_removed(self._instance, context.dagster_run, read_settings().llm_models):
            super().launch_run(context)

    def terminate(self, run_id: str) -> bool:
        """Interrupt the process of a run. Kill it if it does not end in time.

        Dagster's launcher has the code server ask the process to end. A process that hangs or is
        stopped (SIGSTOP) does not answer; the code server then waits forever and launches no more
        runs. A signal has the same effect on the run and does not wait.

        Returns:
            Whether a process was told to end.
        """
        workers = self._alive_processes(run_id)
        if not workers:  # not started yet, or executed outside the code server
            return bool(super().terminate(run_id))  # type: ignore[no-untyped-call]
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        processes = []
        for pid, _ in workers:
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                process.send_signal(signal.SIGINT)
                process.resume()
                processes.append(process)
        _kill_later(run_id, workers, self._instance.run_monitoring_cancel_timeout_seconds)
        # A process that ends reports its run as canceled. Run monitoring marks a run beyond its
        # limit as failed after this call: waiting keeps the two in this order.
        psutil.wait_procs(processes, timeout=_EXIT_SECONDS)
        return True

    def get_run_worker_debug_info(
        self,
        run: "DagsterRun",
        include_container_logs: bool | None = True,  # noqa: ARG002, FBT001, FBT002 - Dagster's
    ) -> str | None:
        """Kill the process of a run that is about to be marked as ended, and report that.

        Run monitoring calls this for a run that did not start or end in time.
        """
        workers = self._alive_processes(run.run_id)
        if not workers:
            return None
        _kill_later(run.run_id, workers, _MARKING_SECONDS)
        return f"Killing its process (pid {', '.join(str(pid) for pid, _ in workers)})"

    def _alive_processes(self, run_id: str) -> list[tuple[int, float]]:
        return [worker for worker in self._reported_processes(run_id) if _is_alive(*worker)]

    @property
    def supports_check_run_worker_health(self) -> bool:
        """True: run monitoring calls `check_run_worker_health`."""
        return True

    def check_run_worker_health(self, run: "DagsterRun") -> CheckRunHealthResult:
        """Return whether the process of a started run is alive.

        Args:
            run: in status STARTED when it was read; it may have ended since.

        Returns:
            FAILED, with the pid, if the process is gone; otherwise RUNNING. A run for which no
            process of a code server reported counts as running: a `dagster` command may execute it
            in its own process.
        """
        workers = list(self._reported_processes(run.run_id))
        if not workers or any(_is_alive(pid, reported) for pid, reported in workers):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        pids = ", ".join(str(pid) for pid, _ in workers)
        return CheckRunHealthResult(
            WorkerStatus.FAILED, f"The process of the run (pid {pids}) is gone"
        )

    def _reported_processes(self, run_id: str) -> Iterator[tuple[int, float]]:
        """Yield the pid and the report time of each process that reported for the run.

        There can be two: if the code server starts a process and its answer is lost, Dagster
        launches the run again. Dagster lets only one of the two execute the run.
        """
        events = self._instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
        for entry in events:
            event = entry.dagster_event
            if event is not None and (event.message or "").startswith(_STARTED_MESSAGE):
                yield int(str(event.engine_event_data.metadata["pid"].value)), entry.timestamp


def _is_alive(pid: int, reported: float) -> bool:
    try:
        process = psutil.Process(pid)
        return is_alive(process) and process.create_time() <= reported + _SLACK_SECONDS
    except psutil.Error:  # gone, or another user's process
        return False


def _kill_later(run_id: str, workers: list[tuple[int, float]], seconds: float) -> None:
    timer = threading.Timer(seconds, _kill, (run_id, workers))
    # If this process ends first, run monitoring finds the run, or the next start of the service
    # finds the run's process.
    timer.daemon = True
    timer.start()


def _kill(run_id: str, workers: list[tuple[int, float]]) -> None:
    for pid, reported in workers:
        if _is_alive(pid, reported):
            logger.warning("Run %s: killing its process (pid %d): it did not end", run_id, pid)
            with suppress(psutil.Error):
                psutil.Process(pid).kill()
