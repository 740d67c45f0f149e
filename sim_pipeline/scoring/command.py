"""The command `score`: reads alarms, and the stored windows and events, and scores the alarms."""

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from sim_pipeline.metrics import EVENT_KINDS
from sim_pipeline.scoring.reading import ScoringError, read_alarms
from sim_pipeline.scoring.report import Report
from sim_pipeline.scoring.score import Rule, Span, score
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.errors import translate_db_errors
from sim_pipeline.store.events import read_events
from sim_pipeline.timestamps import format_timestamp, parse_timestamp

STANDARD_INPUT = Path("-")

# Windows without a gap between them have the same island.
_COVERED = sa.text(
    """
    SELECT llm_name, min("timestamp") AS since, max("timestamp") + :length AS until
    FROM (
        SELECT llm_name, "timestamp", "timestamp" - :length * row_number()
            OVER (PARTITION BY llm_name ORDER BY "timestamp") AS island
        FROM deliveries
        WHERE extract(epoch FROM "timestamp") % extract(epoch FROM CAST(:length AS interval)) = 0
    ) AS w
    GROUP BY llm_name, island
    ORDER BY llm_name, since
    """
)


def run_score(
    postgres: Postgres,
    path: Path,
    *,
    interval: timedelta,
    rule: Rule,
    llm_names: Sequence[str] = (),
    since: str | None = None,
    until: str | None = None,
) -> Report:
    """Score the alarms of a file against the stored events.

    Args:
        postgres: the results database.
        path: the file; `STANDARD_INPUT` for standard input.
        interval: length of a window. Stored windows that do not start at a multiple of it
            are ignored.
        rule: the choices of the rule.
        llm_names: the models to score; by default all that have stored windows.
        since: start of the scored period, ISO 8601; by default and at least that of the first
            stored window.
        until: end of the scored period; by default and at most that of the last stored window.

    Raises:
        ScoringError: an argument or the file is invalid; one line.
        StoreError: the database could not be used.
    """
    limits = _limit("--since", since), _limit("--until", until)
    unknown = sorted(set(rule.kinds) - set(EVENT_KINDS))
    if unknown or not rule.kinds:
        raise ScoringError(
            f"--kinds is {','.join(rule.kinds)!r}: allowed are one or more of"
            f" {', '.join(EVENT_KINDS)}"
        )
    source, content = _read(path)
    with translate_db_errors(postgres), postgres.engine.connect() as connection:
        stored = _stored_spans(connection, interval)
        alarms = read_alarms(source, content, llm_names=stored)
        period, covered = _scored(stored, llm_names, *limits)
        # An event that began and ended before can still explain an alarm.
        earliest = period[0] - rule.grace - rule.horizon
        events = read_events(connection, list(covered), earliest, period[1])
    return Report(score(alarms, events, covered, rule), rule, period)


def _limit(name: str, text: str | None) -> datetime | None:
    try:
        return None if text is None else parse_timestamp(text)
    except ValueError as error:
        raise ScoringError(f"{name} is {error}") from None


def _read(path: Path) -> tuple[str, bytes]:
    if path == STANDARD_INPUT:
        return "standard input", sys.stdin.buffer.read()
    try:
        return str(path), path.read_bytes()
    except OSError as error:
        raise ScoringError(f"{path}: cannot be read: {error.strerror}") from error


def _stored_spans(connection: sa.Connection, interval: timedelta) -> dict[str, list[Span]]:
    """Return when windows of each model are stored: spans in order that do not touch."""
    stored: dict[str, list[Span]] = {}
    for row in connection.execute(_COVERED, {"length": interval}):
        span = row.since.astimezone(UTC), row.until.astimezone(UTC)
        stored.setdefault(row.llm_name, []).append(span)
    if not stored:
        raise ScoringError(
            f"no windows of {interval // timedelta(seconds=1)} s are stored: simulate some with"
            " `make backfill`, or set SIMULATION_INTERVAL as the service has it"
        )
    return stored


def _scored(
    stored: Mapping[str, Sequence[Span]],
    llm_names: Sequence[str],
    since: datetime | None,
    until: datetime | None,
) -> tuple[Span, dict[str, list[Span]]]:
    """Return the scored period, and what is stored of each model in it."""
    unknown = sorted(set(llm_names) - set(stored))
    if unknown:
        raise ScoringError(
            f"--models: unknown models: {', '.join(map(repr, unknown))}; allowed are those with"
            f" stored windows: {', '.join(stored)}"
        )
    spans_of = {name: stored[name] for name in llm_names or stored}
    first = min(spans[0][0] for spans in spans_of.values())
    last = max(spans[-1][1] for spans in spans_of.values())
    period = max(since or first, first), min(until or last, last)
    covered = {
        name: within
        for name, spans in spans_of.items()
        if (
            within := [
                (first_in, last_in)
                for start, end in spans
                if (first_in := max(start, period[0])) < (last_in := min(end, period[1]))
            ]
        )
    }
    if not covered:
        raise ScoringError(
            f"no windows are stored from {format_timestamp(since or first)} (--since) to"
            f" {format_timestamp(until or last)} (--until): the stored ones are from"
            f" {format_timestamp(first)} to {format_timestamp(last)}"
        )
    return period, covered
