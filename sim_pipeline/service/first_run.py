"""The first start: fills the catch-up range, compares the models and writes a report.

Later starts need none of it: the daemon catches up on the last missed tick, and that tick requests
every missing window.
"""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from sim_pipeline.backfill.dagster_client import DagsterClient, WebserverError
from sim_pipeline.config import Settings
from sim_pipeline.connections import results_database
from sim_pipeline.orchestration.jobs.comparison import COMPARISON_JOB
from sim_pipeline.orchestration.jobs.simulation import SIMULATION_JOB, missing_windows, run_request
from sim_pipeline.service.children import Children
from sim_pipeline.stop_request import StopRequest
from sim_pipeline.store.ledger import latest_window_start
from sim_pipeline.windows import Cadence

FILL_SECONDS: Final = 120.0
"""How long the first start waits for its runs; then they go on in the background."""

_POLL_SECONDS = 0.2
_REPORT_SECONDS = 60.0
_SUCCESS = "SUCCESS"
_ENDED = (_SUCCESS, "FAILURE", "CANCELED")

logger = logging.getLogger(__name__)


def is_first_start(settings: Settings) -> bool:
    """Return whether the results database has no window of the models."""
    with results_database(settings).engine.connect() as connection:
        return latest_window_start(connection, settings.llm_models) is None


class FirstStart:
    """Launches the runs of the first start and waits for them, at most `FILL_SECONDS`.

    Errors are logged, not raised: the schedules repeat what is missing.
    """

    def __init__(self, settings: Settings, children: Children, stop: StopRequest) -> None:
        self._settings = settings
        self._children = children
        self._stop = stop
        self._dagster = DagsterClient(settings.ui_url)
        self._deadline = time.monotonic() + FILL_SECONDS

    def run(self, report: Path) -> None:
        """Simulate the catch-up range in one run, compare the models, and write the report."""
        try:
            request = self._simulation()
            if request is None or not self._run(SIMULATION_JOB, **request):
                return
            comparison = self._dagster.launch(COMPARISON_JOB, [{}], {})[0]
            if not self._children.run(
                "report", "sim_pipeline", "report", "--output", str(report), timeout=_REPORT_SECONDS
            ):
                logger.warning("The report was not written; make report writes it")
            self._await("The first comparison", comparison)
        except (WebserverError, sa.exc.OperationalError) as error:
            reason = " ".join(str(getattr(error, "orig", error)).split())
            logger.warning("The first run: %s. The schedule's next tick does its work", reason)

    def _simulation(self) -> dict[str, Any] | None:
        """Return the tags and the configuration of the first run; None if no window has ended."""
        settings = self._settings
        cadence = Cadence(settings.simulation_interval, settings.simulation_start)
        now = datetime.now(UTC)
        missing = missing_windows(
            results_database(settings).engine,
            cadence,
            settings.llm_models,
            since=now - timedelta(hours=settings.catch_up_hours),
            now=now,
        )
        if missing is None:
            return None
        logger.info(
            "Simulating the last %s hours: %s windows of %s models",
            settings.catch_up_hours,
            f"{missing.windows:,}",
            len(settings.llm_models),
        )
        request = run_request(missing.span, cadence)
        return {"tags": request.tags, "run_config": request.run_config}

    def _run(self, job: str, *, tags: dict[str, str], run_config: dict[str, Any]) -> bool:
        return self._await("The first run", self._dagster.launch(job, [tags], run_config)[0])

    def _await(self, what: str, run: str) -> bool:
        """Wait until a run ends; return whether it succeeded."""
        status = self._poll(lambda: self._dagster.status(run))
        if status not in (*_ENDED, None):
            logger.info(
                "%s goes on: %s. After it, make report writes the report",
                what,
                self._dagster.page(run),
            )
        elif status not in (_SUCCESS, None):
            logger.warning("%s failed: see %s", what, self._dagster.page(run))
        return status == _SUCCESS

    def _poll(self, status: Callable[[], str]) -> str | None:
        """Return a run's status when it has ended or the time is over; None after Ctrl-C."""
        while (now := status()) not in _ENDED and time.monotonic() < self._deadline:
            self._children.raise_if_exited()
            if self._stop.wait(_POLL_SECONDS):
                return None
        return now
