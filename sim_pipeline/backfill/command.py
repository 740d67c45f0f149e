"""The backfill command: its steps, its output and its exit status.

The command keeps no state. The results database and Dagster know what is done, and a tag identifies
a backfill in progress. So the same command, started again, continues where the first one stopped.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from rich.console import Console

from sim_pipeline.backfill.dagster_client import (
    BackfillState,
    DagsterClient,
    WebserverError,
    WebserverUnreachableError,
)
from sim_pipeline.backfill.progress import Display, ProgressSnapshot
from sim_pipeline.backfill.request import Request, days_of
from sim_pipeline.config import Settings
from sim_pipeline.connections import results_database
from sim_pipeline.errors import ServiceError
from sim_pipeline.partition_keys import partition_key
from sim_pipeline.stop_request import StopRequest
from sim_pipeline.store.completeness import EntryCounts, count_complete_windows, count_entries
from sim_pipeline.store.ledger import Span
from sim_pipeline.timestamps import format_duration, format_timestamp
from sim_pipeline.windows import Cadence

COMPLETE, INCOMPLETE, INTERRUPTED = 0, 1, 130

_POLL_SECONDS = 1.0
# The largest part of the time that polls may take: they count up to millions of ledger entries.
_POLL_SHARE = 0.1
# If the service does not answer for longer, the command fails. A restart takes less.
_SILENCE_SECONDS = 60.0
# The daemon polls every 30 s, and a canceled run may first finish its batch.
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
        self._cadence = Cadence(settings.simulation_interval, settings.simulation_start)
        self._interval = timedelta(seconds=settings.simulation_interval)
        self._engine = results_database(settings).engine
        self._dagster = DagsterClient(settings.ui_url)
        self._stop = StopRequest()

    def run(self) -> int:
        began = time.monotonic()
        if not self._await_previous_cancellation():
            return INTERRUPTED
        backfill = self._dagster.unfinished(self._request.name, "REQUESTED")
        if backfill is not None:
            self._print(f"Following backfill {backfill}, which is already in progress")
            scope = self._scope(self._dagster.state(backfill).launched)
        else:
            scope = self._scope(datetime.now(UTC))
            keys = self._partitions_to_do(scope)
            if not keys:
                self._print(f"Nothing to do: all {scope.total:,} windows are stored and published")
                return COMPLETE
            if self._stop:
                self._print("Nothing was launched")
                return INTERRUPTED
            backfill = self._launch(scope, keys)
        before = self._entries(scope.span)
        state = self._follow(backfill, scope)
        if state is None:
            return self._cancel(backfill)
        return self._summarize(backfill, state, scope, before, time.monotonic() - began)

    def _await_previous_cancellation(self) -> bool:
        """Wait while a backfill for this request is being canceled; return False after Ctrl-C."""
        backfill = self._dagster.unfinished(self._request.name, "CANCELING", "FAILING")
        if backfill is None:
            return True
        self._print(f"Waiting for backfill {backfill}, which is still being canceled")
        if self._await_cancellation(backfill, self._stop):
            return True
        if self._stop:
            self._print("Nothing was launched")
            return False
        raise WebserverError(
            f"Backfill {backfill} is still being canceled after {format_duration(_CANCEL_SECONDS)}:"
            f" see {self._page(backfill)}"
        )

    def _scope(self, moment: datetime) -> _Scope:
        windows = self._request.windows_ended(self._cadence, moment)
        since, until = map(self._cadence.start_of, (windows.start, windows.stop))
        if self._cadence.windows_between(since, self._request.until) != windows:
            self._print(f"Skipping the windows that had not ended at {format_timestamp(moment)}")
        return _Scope(Span(self._request.llm_names, since, until), windows)

    def _partitions_to_do(self, scope: _Scope) -> list[str]:
        """Return the keys of the partitions that Dagster or the database lacks in part."""
        with self._engine.connect() as connection:
            complete = count_complete_windows(connection, scope.span, self._interval)
        materialized = self._dagster.materialized()
        return [
            partition_key(day, llm_name)
            for llm_name in scope.span.llm_names
            for day, windows in days_of(scope.windows, self._cadence)
            if complete.get((llm_name, day), 0) < windows or (llm_name, day) not in materialized
        ]

    def _launch(self, scope: _Scope, keys: list[str]) -> str:
        since, until = format_timestamp(self._request.since), format_timestamp(self._request.until)
        models = _count(len(scope.span.llm_names), "model")
        backfill = self._dagster.launch(
            self._request.name,
            keys,
            title=f"{since} to {until}, {models}",
            # Partitions are whole days; this limits the runs to the requested times. Windows stored
            # from other inputs count as done, so the runs must not replace them either.
            run_config={
                "resources": {
                    "scope": {"config": {"since": since, "until": until, "replace": False}}
                }
            },
        )
        self._print(
            f"Launched backfill {backfill}: {_count(len(keys), 'partition')},"
            f" {_count(scope.total, 'window')} of {models}. Ctrl-C cancels it"
        )
        self._print(self._page(backfill))
        return backfill

    def _follow(self, backfill: str, scope: _Scope) -> BackfillState | None:
        """Show the progress until the backfill ends; return None after Ctrl-C."""
        last_answer = time.monotonic()
        with Display(self._console, scope.total) as display:
            while True:
                began = time.monotonic()
                try:
                    state = self._dagster.state(backfill)
                    entries = self._entries(scope.span)
                except (WebserverUnreachableError, sa.exc.OperationalError):
                    if began > last_answer + _SILENCE_SECONDS:
                        raise
                else:
                    last_answer = time.monotonic()
                    display.show(
                        ProgressSnapshot(
                            entries.stored, entries.published, state.runs, state.runs_succeeded
                        )
                    )
                    if state.has_ended:
                        return state
                poll_seconds = time.monotonic() - began
                if self._stop.wait(max(_POLL_SECONDS, poll_seconds / _POLL_SHARE)):
                    return None

    def _cancel(self, backfill: str) -> int:
        self._print("Canceling the backfill; press Ctrl-C again to exit without waiting")
        second_stop = StopRequest()
        self._dagster.cancel(backfill)
        if self._await_cancellation(backfill, second_stop):
            self._print(f"Canceled. {_CONTINUE_ADVICE}")
        else:
            self._print(f"Dagster is still canceling it: {self._page(backfill)}")
            self._print(_CONTINUE_ADVICE)
        return INTERRUPTED

    def _await_cancellation(self, backfill: str, stop: StopRequest) -> bool:
        """End the runs and wait for the end of the backfill; return False on timeout or Ctrl-C."""
        deadline = time.monotonic() + _CANCEL_SECONDS
        while not self._dagster.state(backfill).has_ended:
            self._dagster.end_runs(backfill)
            if stop.wait(_POLL_SECONDS) or time.monotonic() > deadline:
                return False
        return True

    def _summarize(
        self,
        backfill: str,
        state: BackfillState,
        scope: _Scope,
        before: EntryCounts,
        seconds: float,
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
        if state.has_succeeded and not missing:
            return COMPLETE
        self._print(
            f"Backfill {backfill} ended with status {state.status}"
            + (f": {state.error}" if state.error else "")
            + (f"; {_count(missing, 'window')} not published yet" if missing else "")
        )
        self._show_failed_runs(backfill)
        self._print(_CONTINUE_ADVICE)
        return INCOMPLETE

    def _show_failed_runs(self, backfill: str) -> None:
        failed = self._dagster.failed_runs(backfill)
        for run in failed[:_FAILED_RUNS_SHOWN]:
            explained = self._dagster.explain(run)
            self._print(f"Failed: {explained.message}")
            self._print(f"  see {explained.url}")
        if len(failed) > _FAILED_RUNS_SHOWN:
            self._print(f"  and {len(failed) - _FAILED_RUNS_SHOWN:,} more runs")

    def _page(self, backfill: str) -> str:
        return f"{self._dagster.url}/runs/b/{backfill}"

    def _entries(self, span: Span) -> EntryCounts:
        with self._engine.connect() as connection:
            return count_entries(connection, span, self._interval)

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
