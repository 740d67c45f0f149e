"""The command `report`: chooses the period, and writes the HTML file."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from sim_pipeline.config import Settings
from sim_pipeline.connections import results_database
from sim_pipeline.errors import ServiceError
from sim_pipeline.report.contents import read_contents
from sim_pipeline.report.page import render
from sim_pipeline.store.errors import translate_db_errors
from sim_pipeline.store.ledger import latest_window_start
from sim_pipeline.timestamps import format_timestamp
from sim_pipeline.windows import Cadence

DEFAULT_LENGTH: Final = timedelta(days=7)
"""The length of a report's period without --since."""
REPORT: Final = Path(".local/report.html")
"""Where a report is written by default."""
STDOUT: Final = Path("-")


def write_report(
    settings: Settings, since: datetime | None, until: datetime | None, output: Path
) -> None:
    """Write a report of the stored windows of a period.

    Args:
        settings: the validated settings.
        since: windows that start at this time or later; None for seven days before `until`.
        until: windows that start before this time; None for all that are stored.
        output: the file to write, replaced if it exists; `STDOUT` for standard output.

    Raises:
        ServiceError: no window is stored in the period, the results database is unreachable or
            refuses, or the file can't be written.
        StoreError: the results database is unreachable or refuses.
    """
    postgres = results_database(settings)
    cadence = Cadence(settings.simulation_interval, settings.simulation_start)
    llm_names = settings.llm_models
    with translate_db_errors(postgres), postgres.engine.begin() as connection:
        windows = _windows(connection, llm_names, cadence, since, until)
        contents = read_contents(connection, llm_names, windows, cadence, settings.num_data_points)
    if not any(one.stored for one in contents.totals):
        raise ServiceError(
            f"No window of the models is stored from {format_timestamp(contents.since)} to"
            f" {format_timestamp(contents.until)}"
        )
    html = render(contents, datetime.now(UTC))
    if output == STDOUT:
        sys.stdout.write(html)
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(html, encoding="utf-8")
    except OSError as error:
        raise ServiceError(f"{output} cannot be written: {error.strerror}") from error


def _windows(
    connection: sa.Connection,
    llm_names: tuple[str, ...],
    cadence: Cadence,
    since: datetime | None,
    until: datetime | None,
) -> range:
    """Return the windows of the period up to the latest one that is stored."""
    latest = latest_window_start(connection, llm_names)
    if latest is None:
        raise ServiceError(
            "No window is stored: make run starts the service, and make backfill adds history"
        )
    stop = cadence.window_at(latest) + 1
    end = cadence.start_of(stop)
    until = min(until or end, end)
    since = max(since or until - DEFAULT_LENGTH, cadence.start)
    windows = cadence.windows_between(since, max(since, until))
    if not windows:
        raise ServiceError(
            f"No window is stored from {format_timestamp(since)} to {format_timestamp(until)}: the"
            f" latest one starts at {format_timestamp(latest)}"
        )
    return windows
