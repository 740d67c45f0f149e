"""What must be true of a healed feed: every window stored once, and received once or more."""

import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from sim_pipeline.metrics import METRICS
from sim_pipeline_tests.chaos.environment import INTERVAL_SECONDS, MODELS, POINTS, Site

_INTERVAL = timedelta(seconds=INTERVAL_SECONDS)
_EXAMPLES = 5


def delivered(site: Site, until: datetime) -> bool:
    """Tell whether every window that ended by then is stored, published and received, in number."""
    windows = len(MODELS) * ((until - site.began) // _INTERVAL)
    span = {"since": site.began, "until": until - _INTERVAL}
    with site.results.connect() as connection:
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
        and all(one in site.consumer.bodies for one in published)
    )


def faults_found(site: Site, since: datetime, until: datetime) -> list[str]:
    """Compare windows, ledger and messages one by one; say what is wrong, a few examples at most.

    Args:
        site: the feed.
        since: the first label to look at.
        until: the windows that ended by then.
    """
    received = dict(site.consumer.bodies)
    with site.results.connect() as connection:
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
        entered = set(connection.scalars(sa.text("SELECT message_id::text FROM deliveries")))
    stored: dict[tuple[str, datetime], dict[str, list[float]]] = {}
    for name, label, metric, values in rows:
        stored.setdefault((name, label.astimezone(UTC)), {})[metric] = values
    entries = {(name, label.astimezone(UTC)): (one, at) for name, label, one, at in ledger}

    def all_faults() -> Iterator[str]:
        if len(rows) != sum(map(len, stored.values())):
            yield "a row is stored twice"
        for window in sorted(set(stored) ^ set(entries)):
            yield f"{_name(window)}: rows without an entry, or an entry without rows"
        for window in _windows(since, until):
            yield from _faults_of(window, stored.get(window, {}), entries.get(window), received)
        for one in received.keys() - entered:
            yield f"message {one} is of no window"
        for one in site.consumer.changed:
            yield f"message {one} came again with another body"

    return list(itertools.islice(all_faults(), _EXAMPLES))


def _windows(since: datetime, until: datetime) -> Iterator[tuple[str, datetime]]:
    for number in range((until - since) // _INTERVAL):
        for name in MODELS:
            yield name, since + number * _INTERVAL


def _faults_of(
    window: tuple[str, datetime],
    rows: dict[str, list[float]],
    entry: tuple[str, datetime | None] | None,
    received: dict[str, bytes],
) -> Iterator[str]:
    if entry is None:
        yield f"{_name(window)}: not stored"
        return
    if set(rows) != set(METRICS) or {len(values) for values in rows.values()} != {POINTS}:
        yield f"{_name(window)}: stored are {sorted(rows)}"
        return
    message_id, published_at = entry
    if published_at is None:
        yield f"{_name(window)}: not published"
    if message_id not in received:
        yield f"{_name(window)}: not received"
    elif json.loads(received[message_id]) != _message(window, rows):
        yield f"{_name(window)}: the message differs from the rows"


def _message(window: tuple[str, datetime], rows: dict[str, list[float]]) -> list[dict[str, Any]]:
    name, label = window
    return [
        {
            "llm_name": name,
            "metric": metric,
            "values": rows[metric],
            "timestamp": label.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
        for metric in METRICS
    ]


def _name(window: tuple[str, datetime]) -> str:
    return f"{window[0]} {window[1].isoformat()}"
