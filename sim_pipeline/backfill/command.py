"""The backfill command: its steps, its output and its exit status.

The command launches runs of the schedule's job over ranges of partitions, and keeps no state. The
results database and Dagster know what is done, and a tag identifies the runs of a request. So the
same command, started again, continues where the first one stopped.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from urllib.parse import quote

import sqlalchemy as sa
from rich.console import Console

from sim_pipeline.backfill.dagster_client import (
    DagsterClient,
    WebserverError,
    WebserverUnreachableError,
)
from sim_pipeline.backfill.progress import Display, ProgressSnapshot
from sim_pipeline.backfill.request import Request, days_of
from sim_pipeline.backfill.runs import Run, covered, not_retried, split, worthwhile_runs
from sim_pipeline.config import Settings
from sim_pipeline.connections import results_database
from sim_pipeline.dagster_instance.run_tags import REQUEST_TAG, range_tags
from sim_pipeline.errors import ServiceError
from sim_pipeline.stop_request import StopRequest
from sim_pipeline.store.completeness import EntryCounts, count_complete_windows, count_entries
from sim_pipeline.store.ledger import Span
from sim_pipeline.timestamps import format_duration, format_timestamp
from sim_pipeline.windows import Cadence

COMPLETE, INCOMPLETE, INTERRUPTED = 0, 1, 130

_POLL_SECONDS = 0.3
# The largest part of the time that polls may take: they count up to millions of ledger entries.
_POLL_SHARE = 0.1
_LONGEST_PAUSE_SECONDS = 10.0
# If the service does not answer for longer, the command fails. A restart takes less.
_SILENCE_SECONDS = 60.0
# A run that is told to end first finishes its batch. A run that died is canceled once Dagster has
# launched its retry, within a minute.
_CANCEL_SECONDS = 180.0
_FAILED_RUNS_SHOWN = 3
_CONTINUE_ADVICE = "Run the same command again to continue"


def run_backfill(settings: Settings, request: Request, console: Console) -> int:
    """Let the running service simulate, store and publish the windows of a request.

    Args:
        settings: the validated settings, the same as the service's.
        request: the validated request.
        console: the console for progress and result.

    Returns:
        The exit status: 0 if all windows are published, 1 if anything failed or was canceled, 130
        after Ctrl-C.

    Raises:
        ServiceError: the web server or the results database is unreachable or refuses.
    """
    try:
        return _Backfill(settings, request, console).run()
    except WebserverUnreachableError as error:
        raise ServiceError(f"{error}; start the service with `make run`") from None
    except sa.exc.OperationalError as error:
        raise ServiceError(f"The results database: {' '.join(str(error.orig).split())}") from None


@dataclass(frozen=True)
class _Scope:
    """The windows of a backfill, fixed at its launch."""

    span: Span
    windows: range

    @property
    def total(self) -> int:
        return len(self.span.llm_names) * len(self.windows)


class _Backfill:
    def __init__(self, settings: Settings, request: Request, console: Console) -> None:
        self._request = request
        self._console = console
        self._llm_names = settings.llm_models
        self._points = settings.num_data_points
        self._cadence = Cadence(settings.simulation_interval, settings.simulation_start)
        self._interval = timedelta(seconds=settings.simulation_interval)
        self._engine = results_database(settings).engine
        self._dagster = DagsterClient(settings.ui_url)
        # The runs that this command launched or follows. Their retries have the same roots.
        self._roots: set[str] = set()
        self._stop = StopRequest()

    def run(self) -> int:
        began = time.monotonic()
        if not self._await_previous_cancellation():
            return INTERRUPTED
        runs = _unfinished(self._dagster.runs(self._request.name))
        self._roots = {run.root for run in runs}
        scope = self._scope(min((run.created for run in runs), default=datetime.now(UTC)))
        before = self._entries(scope.span)
        windows = self._windows_to_do(scope, covered(runs, self._llm_names))
        if runs:
            self._print(f"Following {_count(len(runs), 'run')} already in progress")
        elif not windows:
            self._print(f"Nothing to do: all {scope.total:,} windows are stored and published")
            return COMPLETE
        if windows:
            if self._stop:
                self._print("Nothing was launched")
                return INTERRUPTED
            self._launch(windows)
        self._print(f"Ctrl-C cancels the backfill. {self._page()}")
        finished = self._follow(scope)
        if finished is None:
            return self._cancel()
        return self._summarize(finished, scope, before, time.monotonic() - began)

    def _await_previous_cancellation(self) -> bool:
        """Wait while runs of this request are being canceled; return False after Ctrl-C."""
        canceling = [
            run for run in self._dagster.runs(self._request.name) if run.status == "CANCELING"
        ]
        if not canceling:
            return True
        self._roots = {run.root for run in canceling}
        self._print(f"Waiting for {_count(len(canceling), 'run')} still being canceled")
        if self._await_end(self._stop):
            return True
        if self._stop:
            self._print("Nothing was launched")
            return False
        raise WebserverError(
            f"Runs are still being canceled after {format_duration(_CANCEL_SECONDS)}:"
            f" see {self._page()}"
        )

    def _scope(self, moment: datetime) -> _Scope:
        windows = self._request.windows_ended(self._cadence, moment)
        since, until = map(self._cadence.start_of, (windows.start, windows.stop))
        if self._cadence.windows_between(since, self._request.until) != windows:
            self._print(f"Skipping the windows that had not ended at {format_timestamp(moment)}")
        return _Scope(Span(self._request.llm_names, since, until), windows)

    def _windows_to_do(
        self, scope: _Scope, in_progress: set[tuple[str, date]]
    ) -> dict[tuple[str, date], int]:
        """Return the partitions that Dagster or the database lacks in part, with their windows.

        Args:
            scope: the windows of the backfill.
            in_progress: the partitions of unfinished runs, which are left out.
        """
        with self._engine.connect() as connection:
            complete = count_complete_windows(connection, scope.span, self._interval)
        materialized = self._dagster.materialized()
        return {
            (llm_name, day): windows
            for llm_name in scope.span.llm_names
            for day, windows in days_of(scope.windows, self._cadence)
            if (llm_name, day) not in in_progress
            and (complete.get((llm_name, day), 0) < windows or (llm_name, day) not in materialized)
        }

    def _launch(self, windows: Mapping[tuple[str, date], int]) -> None:
        total = sum(windows.values())
        runs = worthwhile_runs(len(windows), total, self._points, self._dagster.run_limit())
        rectangles = split(windows, self._llm_names, runs)
        since, until = format_timestamp(self._request.since), format_timestamp(self._request.until)
        self._roots |= set(
            self._dagster.launch(
                "simulation",
                [
                    {
                        **range_tags(each.llm_names, each.first_day, each.last_day),
                        REQUEST_TAG: self._request.name,
                    }
                    for each in rectangles
                ],
                # Partitions are whole days; this limits the runs to the requested times. Windows
                # stored from other inputs count as done, so the runs must not replace them either.
                run_config={
                    "resources": {
                        "scope": {"config": {"since": since, "until": until, "replace": False}}
                    }
                },
            )
        )
        models = len({llm_name for llm_name, _ in windows})
        self._print(
            f"Launched {_count(len(rectangles), 'run')} over {_count(len(windows), 'partition')},"
            f" {_count(total, 'window')} of {_count(models, 'model')}"
        )

    def _runs(self) -> list[Run]:
        """Return the runs of this backfill, without those that were retried."""
        runs = self._dagster.runs(self._request.name)
        return not_retried(run for run in runs if run.root in self._roots)

    def _follow(self, scope: _Scope) -> list[Run] | None:
        """Show the progress until the runs end, and return them; return None after Ctrl-C."""
        last_answer = time.monotonic()
        with Display(self._console, scope.total) as display:
            while True:
                began = time.monotonic()
                pause = _POLL_SECONDS
                try:
                    runs = self._runs()
                    entries = self._entries(scope.span)
                except (WebserverUnreachableError, sa.exc.OperationalError):
                    if began > last_answer + _SILENCE_SECONDS:
                        raise
                else:
                    last_answer = time.monotonic()
                    needed = (last_answer - began) / _POLL_SHARE
                    pause = min(max(pause, needed), _LONGEST_PAUSE_SECONDS)
                    display.show(_snapshot(runs, entries))
                    if not _unfinished(runs):
                        return runs
                if self._stop.wait(pause):
                    return None

    def _cancel(self) -> int:
        self._print("Canceling the backfill; press Ctrl-C again to exit without waiting")
        if self._await_end(StopRequest(), cancel=True):
            self._print(f"Canceled. {_CONTINUE_ADVICE}")
        else:
            self._print(f"Dagster is still canceling it: {self._page()}")
            self._print(_CONTINUE_ADVICE)
        return INTERRUPTED

    def _await_end(self, stop: StopRequest, *, cancel: bool = False) -> bool:
        """Wait until the runs have ended; return False on timeout or Ctrl-C.

        Args:
            stop: Ctrl-C.
            cancel: tell the runs to end, also those that start meanwhile.
        """
        deadline = time.monotonic() + _CANCEL_SECONDS
        while runs := _unfinished(self._runs()):
            if cancel and (running := [run.run_id for run in runs if run.can_be_terminated]):
                self._dagster.terminate(running)
            if stop.wait(_POLL_SECONDS) or time.monotonic() > deadline:
                return False
        return True

    def _summarize(
        self, runs: Sequence[Run], scope: _Scope, before: EntryCounts, seconds: float
    ) -> int:
        with self._engine.connect() as connection:
            complete = count_complete_windows(connection, scope.span, self._interval)
        after = self._entries(scope.span)
        missing = scope.total - sum(
            min(windows, complete.get((llm_name, day), 0))
            for llm_name in scope.span.llm_names
            for day, windows in days_of(scope.windows, self._cadence)
        )
        simulated = after.stored - before.stored
        self._print(
            f"Simulated {_count(simulated, 'window')} ({before.stored:,} were already stored) and"
            f" published {_count(after.published - before.published, 'message')} in"
            f" {format_duration(seconds)}: {simulated / seconds:,.1f} windows/s"
        )
        # The earliest first.
        failed = [run for run in reversed(runs) if run.status != "SUCCESS"]
        if not failed and not missing:
            return COMPLETE
        if failed:
            self._print(f"{len(failed):,} of {_count(len(runs), 'run')} failed or were canceled")
        if missing:
            self._print(f"{_count(missing, 'window')} not published yet")
        self._show_failed_runs(failed)
        self._print(_CONTINUE_ADVICE)
        return INCOMPLETE

    def _show_failed_runs(self, failed: Sequence[Run]) -> None:
        for run in failed[:_FAILED_RUNS_SHOWN]:
            what = "Canceled" if run.status == "CANCELED" else "Failed"
            self._print(f"{what}: {self._dagster.error_of(run.run_id)}")
            self._print(f"  see {self._dagster.page(run.run_id)}")
        if len(failed) > _FAILED_RUNS_SHOWN:
            self._print(f"  and {len(failed) - _FAILED_RUNS_SHOWN:,} more runs")

    def _page(self) -> str:
        """Return the address of the UI's page that lists the runs of this request."""
        query = quote(f"tag:{REQUEST_TAG}={self._request.name}", safe="")
        return f"{self._dagster.url}/runs?q%5B0%5D={query}"

    def _entries(self, span: Span) -> EntryCounts:
        with self._engine.connect() as connection:
            return count_entries(connection, span, self._interval)

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)


def _unfinished(runs: Sequence[Run]) -> list[Run]:
    now = datetime.now(UTC)
    return [run for run in not_retried(runs) if run.is_unfinished(now)]


def _snapshot(runs: Sequence[Run], entries: EntryCounts) -> ProgressSnapshot:
    now = datetime.now(UTC)
    return ProgressSnapshot(
        entries.stored,
        entries.published,
        len(runs),
        sum(run.status == "SUCCESS" for run in runs),
        sum(run.awaits_retry(now) for run in runs),
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
