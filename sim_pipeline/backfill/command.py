"""The command: what a backfill does in which order, what it says, and its exit status.

Resuming needs no state of its own. What is done stands in the results database and in Dagster; a
backfill that is under way is found by its tag. So the same command again does only the rest.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from rich.console import Console

from sim_pipeline.backfill.dagster_client import (
    DagsterClient,
    State,
    WebserverError,
    WebserverUnreachableError,
)
from sim_pipeline.backfill.progress import Display, ProgressSnapshot, duration
from sim_pipeline.backfill.request import Request, days_of, iso
from sim_pipeline.config import Settings
from sim_pipeline.connections import results_database
from sim_pipeline.errors import ServiceError
from sim_pipeline.stop_request import StopRequest
from sim_pipeline.store.completeness import Entries, complete_windows, ledger_entries
from sim_pipeline.store.ledger import Span
from sim_pipeline.windows import Cadence

COMPLETE, INCOMPLETE, INTERRUPTED = 0, 1, 130

_LOOK_SECONDS = 1.0
# A look may take this part of the time: the ledger of years at 10 s has millions of entries.
_LOOK_SHARE = 0.1
# A service that is silent for less is busy, or is being started again.
_SILENCE_SECONDS = 60.0
# The daemon looks every 30 s; a run that is to end may take until the end of its slice.
_CANCEL_SECONDS = 180.0
_FAILED_RUNS_SHOWN = 3


def run_backfill(settings: Settings, request: Request, console: Console) -> int:
    """Have a request's windows simulated, stored and published by the running service.

    Args:
        settings: as validated; the service runs with the same.
        request: as validated against them.
        console: where to say how it goes.

    Returns:
        0 if all is done, 1 if anything failed or was canceled, 130 if it was interrupted.

    Raises:
        ServiceError: the webserver or the results database can't be reached, or refuses.
    """
    try:
        return _Backfill(settings, request, console).run()
    except sa.exc.OperationalError as error:
        raise ServiceError(f"The results database: {' '.join(str(error.orig).split())}") from None


@dataclass(frozen=True)
class _Scope:
    """What is to be done, fixed when the backfill was launched."""

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
        self._webserver = DagsterClient(settings.ui_url)
        self._stop = StopRequest()

    def run(self) -> int:
        began = time.monotonic()
        if not self._await_canceled():
            return INTERRUPTED
        backfill = self._webserver.unfinished(self._request.name, "REQUESTED")
        if backfill is not None:
            self._say(f"It is under way already, as backfill {backfill}; following that")
            scope = self._scope(self._webserver.state(backfill).launched)
        else:
            scope = self._scope(datetime.now(UTC))
            keys = self._partitions_to_do(scope)
            if not keys:
                self._say(f"Nothing to do: all {scope.total:,} windows are stored and published")
                return COMPLETE
            if self._stop:
                self._say("Nothing was launched")
                return INTERRUPTED
            backfill = self._launch(scope, keys)
        before = self._entries(scope.span)
        state = self._follow(backfill, scope)
        if state is None:
            return self._cancel(backfill)
        return self._sum_up(backfill, state, scope, before, time.monotonic() - began)

    def _await_canceled(self) -> bool:
        """Wait until none for this request is being canceled; False if somebody stops that."""
        backfill = self._webserver.unfinished(self._request.name, "CANCELING", "FAILING")
        if backfill is None:
            return True
        self._say("The one before is still being canceled; waiting for that")
        if self._await_end_of_canceled(backfill, self._stop):
            return True
        if self._stop:
            self._say("Nothing was launched")
            return False
        raise WebserverError(
            f"Backfill {backfill} is still being canceled after {duration(_CANCEL_SECONDS)}:"
            f" see {self._page(backfill)}"
        )

    def _scope(self, moment: datetime) -> _Scope:
        windows = self._request.windows_ended(self._cadence, moment)
        since, until = map(self._cadence.start_of, (windows.start, windows.stop))
        if self._cadence.windows_between(since, self._request.until) != windows:
            self._say(f"Windows that had not ended at {iso(moment)} are left out")
        return _Scope(Span(self._request.llm_names, since, until), windows)

    def _partitions_to_do(self, scope: _Scope) -> list[str]:
        """Name the partitions of which Dagster or the database lacks anything."""
        with self._engine.connect() as connection:
            complete = complete_windows(connection, scope.span, self._interval)
        materialized = self._webserver.materialized()
        return [
            f"{day.isoformat()}|{llm_name}"
            for llm_name in scope.span.llm_names
            for day, windows in days_of(scope.windows, self._cadence)
            if complete.get((llm_name, day), 0) < windows or (llm_name, day) not in materialized
        ]

    def _launch(self, scope: _Scope, keys: list[str]) -> str:
        since, until = iso(self._request.since), iso(self._request.until)
        models = _count(len(scope.span.llm_names), "model")
        backfill = self._webserver.launch(
            self._request.name,
            keys,
            title=f"{since} to {until}, {models}",
            # Partitions are days; by this the runs keep to the times. A window that is there from
            # other inputs counts as done, and so is not to be replaced in a day that is not.
            run_config={
                "resources": {
                    "scope": {"config": {"since": since, "until": until, "replace": False}}
                }
            },
        )
        self._say(
            f"Launched backfill {backfill}: {_count(len(keys), 'partition')},"
            f" {_count(scope.total, 'window')} of {models}. Ctrl-C cancels it"
        )
        self._say(self._page(backfill))
        return backfill

    def _follow(self, backfill: str, scope: _Scope) -> State | None:
        """Show how it goes until it has ended; None if somebody stops that before."""
        heard = time.monotonic()
        with Display(self._console, scope.total) as display:
            while True:
                began = time.monotonic()
                try:
                    state = self._webserver.state(backfill)
                    entries = self._entries(scope.span)
                except (WebserverUnreachableError, sa.exc.OperationalError):
                    if began > heard + _SILENCE_SECONDS:
                        raise
                else:
                    heard = time.monotonic()
                    display.show(
                        ProgressSnapshot(
                            entries.stored, entries.published, state.runs, state.runs_succeeded
                        )
                    )
                    if state.has_ended:
                        return state
                took = time.monotonic() - began
                if self._stop.wait(max(_LOOK_SECONDS, took / _LOOK_SHARE)):
                    return None

    def _cancel(self, backfill: str) -> int:
        self._say("Canceling it; Ctrl-C again does not wait for that")
        again = StopRequest()
        self._webserver.cancel(backfill)
        if self._await_end_of_canceled(backfill, again):
            self._say("Canceled. The same command again does what is left")
        else:
            self._say(
                f"Dagster is still canceling it: {self._page(backfill)}."
                " The same command again waits for that, and then does what is left"
            )
        return INTERRUPTED

    def _await_end_of_canceled(self, backfill: str, stop: StopRequest) -> bool:
        """End its runs and wait until Dagster is done with it; tell whether it was, in time."""
        deadline = time.monotonic() + _CANCEL_SECONDS
        while not self._webserver.state(backfill).has_ended:
            self._webserver.end_runs(backfill)
            if stop.wait(_LOOK_SECONDS) or time.monotonic() > deadline:
                return False
        return True

    def _sum_up(
        self, backfill: str, state: State, scope: _Scope, before: Entries, seconds: float
    ) -> int:
        with self._engine.connect() as connection:
            complete = complete_windows(connection, scope.span, self._interval)
        after = self._entries(scope.span)
        lacking = scope.total - sum(
            min(windows, complete.get((llm_name, day), 0))
            for llm_name in scope.span.llm_names
            for day, windows in days_of(scope.windows, self._cadence)
        )
        simulated = after.stored - before.stored
        self._say(
            f"Simulated {_count(simulated, 'window')} ({before.stored:,} were there already) and"
            f" published {_count(after.published - before.published, 'message')} in"
            f" {duration(seconds)}: {simulated / seconds:,.1f} windows/s"
        )
        if state.has_succeeded and not lacking:
            return COMPLETE
        self._say(
            f"Backfill {backfill} ended as {state.status}"
            + (f": {state.error}" if state.error else "")
            + (f"; not stored and published: {_count(lacking, 'window')}" if lacking else "")
        )
        self._say_what_failed(backfill)
        self._say("The same command again does what is left")
        return INCOMPLETE

    def _say_what_failed(self, backfill: str) -> None:
        failed = self._webserver.failed_runs(backfill)
        for run in failed[:_FAILED_RUNS_SHOWN]:
            explained = self._webserver.explain(run)
            self._say(f"Failed: {explained.message}")
            self._say(f"  see {explained.url}")
        if len(failed) > _FAILED_RUNS_SHOWN:
            self._say(f"  and {len(failed) - _FAILED_RUNS_SHOWN:,} more runs")

    def _page(self, backfill: str) -> str:
        return f"{self._webserver.url}/runs/b/{backfill}"

    def _entries(self, span: Span) -> Entries:
        with self._engine.connect() as connection:
            return ledger_entries(connection, span, self._interval)

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
