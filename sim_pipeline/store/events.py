"""Reads the simulated events. The writer stores them with the windows they overlap."""

from collections.abc import Sequence
from datetime import UTC, datetime

import sqlalchemy as sa

from sim_pipeline.store.batches import SimulatedEvent

EVENTS_LOCK = 1_852_404_341
"""First key of the advisory lock under which a model's events are changed: an arbitrary number. The
second is `hashtext` of the model."""

# `window_starts` ends with the event, and begins before it.
_READ = sa.text(
    """
    SELECT event_id, llm_name, kind, started_at, ended_at, size, metrics
    FROM simulated_events
    WHERE llm_name = ANY(:llm_names)
    AND window_starts && tstzrange(:since, :until)
    AND started_at < :until
    ORDER BY started_at, llm_name, event_id
    """
)


def read_events(
    connection: sa.Connection, llm_names: Sequence[str], since: datetime, until: datetime
) -> list[SimulatedEvent]:
    """Return the events that overlap a time range, by start; times in UTC.

    An event without an end overlaps the range that contains its start.

    Args:
        connection: to the results database.
        llm_names: the models.
        since: start of the range.
        until: end of the range, not included.
    """
    rows = connection.execute(_READ, {"llm_names": list(llm_names), "since": since, "until": until})
    return [
        SimulatedEvent(
            row.event_id,
            row.llm_name,
            row.kind,
            row.started_at.astimezone(UTC),
            row.ended_at.astimezone(UTC) if row.ended_at else None,
            row.size,
            tuple(row.metrics),
        )
        for row in rows
    ]
