"""Invariants of a healed feed: every window is stored once and received at least once."""

import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from sim_pipeline.metrics import METRICS
from sim_pipeline_tests.chaos.environment import INTERVAL_SECONDS, MODELS, POINTS, Environment

_INTERVAL = timedelta(seconds=INTERVAL_SECONDS)
_EXAMPLES = 5


def delivered(environment: Environment, until: datetime) -> bool:
    """Return whether all windows that ended by then are stored, published and received.

    This compares counts and ids only; `find_violations` compares contents.
    """
    windows = len(MODELS) * ((until - environment.began) // _INTERVAL)
    span = {"since": environment.began, "until": until - _INTERVAL}
    with environment.results.connect() as connection:
        rows = connection.scalar(
            sa.text(
                "SELECT count(*) FROM simulation_results"
                ' WHERE "timestamp" >= :since AND "timestamp" <= :until'
            ),
            span,
        )
        published = list(
            connection.scalars(
                sa.text(
                    "SELECT message_id::text FROM deliveries WHERE published_at IS NOT NULL"
                    ' AND "timestamp" >= :since AND "timestamp" <= :until'
                ),
                span,
            )
        )
    return (
        rows == windows * len(METRICS)
        and len(published) == windows
        and all(message_id in environment.consumer.bodies for message_id in published)
    )


def find_violations(environment: Environment, since: datetime, until: datetime) -> list[str]:
    """Compare rows, request counts, ledger and messages by window; return up to five violations.

    Args:
        environment: the environment to check.
        since: the first window start.
        until: the end of the last window.
    """
    received = dict(environment.consumer.bodies)
    with environment.results.connect() as connection:
        rows = connection.execute(
            sa.text(
                'SELECT llm_name, "timestamp", metric, "values" FROM simulation_results'
                ' WHERE "timestamp" >= :since AND "timestamp" < :until'
            ),
            {"since": since, "until": until},
        ).all()
        ledger = connection.execute(
            sa.text(
                'SELECT llm_name, "timestamp", message_id::text, published_at FROM deliveries'
                ' WHERE "timestamp" >= :since AND "timestamp" < :until'
            ),
            {"since": since, "until": until},
        ).all()
        counted = connection.execute(
            sa.text(
                'SELECT llm_name, "timestamp" FROM request_counts'
                ' WHERE "timestamp" >= :since AND "timestamp" < :until'
            ),
            {"since": since, "until": until},
        ).all()
        orphans = connection.scalars(
            sa.text(
                "SELECT event_id::text FROM simulated_events"
                " EXCEPT SELECT event_id::text FROM window_events"
            )
        ).all()
        known_ids = set(connection.scalars(sa.text("SELECT message_id::text FROM deliveries")))
    stored: dict[tuple[str, datetime], dict[str, list[float]]] = {}
    for name, window_start, metric, values in rows:
        stored.setdefault((name, window_start.astimezone(UTC)), {})[metric] = values
    entries = {
        (name, window_start.astimezone(UTC)): (message_id, published_at)
        for name, window_start, message_id, published_at in ledger
    }

    counts = {(name, window_start.astimezone(UTC)) for name, window_start in counted}

    def violations() -> Iterator[str]:
        if len(rows) != sum(map(len, stored.values())):
            yield "a row is stored twice"
        for window in sorted(set(stored) ^ set(entries)):
            yield f"{_name(window)}: rows without a ledger entry, or an entry without rows"
        for window in sorted(counts ^ set(entries)):
            yield f"{_name(window)}: request counts without a ledger entry, or the reverse"
        for event_id in orphans:
            yield f"event {event_id} overlaps no stored window"
        for window in _windows(since, until):
            yield from _violations_of(window, stored.get(window, {}), entries.get(window), received)
        for message_id in received.keys() - known_ids:
            yield f"message {message_id} belongs to no window"
        for message_id in environment.consumer.changed:
            yield f"message {message_id} was received again with a different body"

    return list(itertools.islice(violations(), _EXAMPLES))


def _windows(since: datetime, until: datetime) -> Iterator[tuple[str, datetime]]:
    for number in range((until - since) // _INTERVAL):
        for name in MODELS:
            yield name, since + number * _INTERVAL


def _violations_of(
    window: tuple[str, datetime],
    rows: dict[str, list[float]],
    entry: tuple[str, datetime | None] | None,
    received: dict[str, bytes],
) -> Iterator[str]:
    if entry is None:
        yield f"{_name(window)}: not stored"
        return
    if set(rows) != set(METRICS) or {len(values) for values in rows.values()} != {POINTS}:
        yield f"{_name(window)}: incomplete, has {sorted(rows)}"
        return
    message_id, published_at = entry
    if published_at is None:
        yield f"{_name(window)}: not published"
    if message_id not in received:
        yield f"{_name(window)}: not received"
    elif json.loads(received[message_id]) != _message(window, rows):
        yield f"{_name(window)}: the message differs from the rows"


def _message(window: tuple[str, datetime], rows: dict[str, list[float]]) -> list[dict[str, Any]]:
    name, window_start = window
    return [
        {
            "llm_name": name,
            "metric": metric,
            "values": rows[metric],
            "timestamp": window_start.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
        for metric in METRICS
    ]


def _name(window: tuple[str, datetime]) -> str:
    return f"{window[0]} {window[1].isoformat()}"
