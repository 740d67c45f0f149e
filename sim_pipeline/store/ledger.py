"""The deliveries ledger: which windows are stored, under which message_id, and which were sent."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
import orjson
import sqlalchemy as sa
from numpy.typing import NDArray

from sim_pipeline.metrics import METRICS

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_RECORDED = sa.text(
    """
    SELECT d."timestamp", d.message_id
    FROM deliveries AS d
    JOIN simulation_results AS r
    ON r.llm_name = d.llm_name AND r.metric = ANY(:metrics) AND r."timestamp" = d."timestamp"
    WHERE d.llm_name = :llm_name AND d."timestamp" >= :since AND d."timestamp" < :until
    AND r.llm_name = :llm_name AND r."timestamp" >= :since AND r."timestamp" < :until
    GROUP BY d."timestamp", d.message_id HAVING count(*) = :rows
    """
)

# Model by model: what is compared is then a model's windows, which fit in memory even at one a
# second. An entry between the windows can only be sent, no run would write its rows; so it counts
# only if they are there.
_GAPS = sa.text(
    """
    SELECT m.llm_name, g.earliest, g.latest, g.windows
    FROM unnest(CAST(:llm_names AS text[])) AS m (llm_name)
    CROSS JOIN LATERAL (
        WITH complete AS (
            SELECT "timestamp", d.published_at
            FROM (
                SELECT "timestamp" FROM simulation_results
                WHERE llm_name = m.llm_name AND metric = ANY(:metrics)
                AND "timestamp" >= :since AND "timestamp" < :until
                GROUP BY "timestamp" HAVING count(*) = :rows
            ) AS r
            JOIN deliveries AS d USING ("timestamp")
            WHERE d.llm_name = m.llm_name AND d."timestamp" >= :since AND d."timestamp" < :until
        ), missing AS (
            SELECT to_timestamp(k * :interval) AS "timestamp"
            FROM generate_series(:first, CAST(:stop AS bigint) - 1) AS k
            EXCEPT
            SELECT "timestamp" FROM complete
            UNION ALL
            SELECT "timestamp" FROM complete WHERE published_at IS NULL
        )
        SELECT min("timestamp") AS earliest, max("timestamp") AS latest, count(*) AS windows
        FROM missing AS w
        WHERE NOT EXISTS (
            SELECT FROM unnest(
                CAST(:busy_names AS text[]),
                CAST(:busy_since AS timestamptz[]),
                CAST(:busy_until AS timestamptz[])
            ) AS b (llm_name, since, until)
            WHERE b.llm_name = m.llm_name AND w."timestamp" >= b.since AND w."timestamp" < b.until
        )
    ) AS g
    WHERE g.windows > 0
    """
)

_LATEST = sa.text(
    """
    SELECT max(d.latest)
    FROM unnest(CAST(:llm_names AS text[])) AS m (llm_name)
    CROSS JOIN LATERAL (
        SELECT max("timestamp") AS latest FROM deliveries WHERE llm_name = m.llm_name
    ) AS d
    """
)

_COUNT_PENDING = sa.text(
    """
    SELECT count(*) FROM deliveries
    WHERE published_at IS NULL AND llm_name = ANY(:llm_names)
    AND "timestamp" >= :since AND "timestamp" < :until
    """
)

# In key order, as every writer of these rows takes them: no two wait for each other in a circle.
# A transaction's id stays with what it wrote (xmin) until that is written anew, locks or no locks.
_REOPEN = sa.text(
    """
    WITH delivered AS (
        SELECT llm_name, "timestamp" FROM deliveries
        WHERE llm_name = ANY(:llm_names) AND "timestamp" >= :since AND "timestamp" < :until
        AND published_at IS NOT NULL
        ORDER BY llm_name, "timestamp"
        FOR UPDATE
    ), reopened AS (
        UPDATE deliveries AS d SET published_at = NULL
        FROM delivered AS c WHERE d.llm_name = c.llm_name AND d."timestamp" = c."timestamp"
        RETURNING CAST(d.xmin AS text) AS mark
    )
    SELECT mark, count(*) AS entries FROM reopened GROUP BY mark
    """
)

# A claim is idle in its transaction while messages are published. If its machine is gone the
# entries must not stay locked until TCP notices, hours later.
_GIVE_UP_CLAIM = sa.text("SET LOCAL idle_in_transaction_session_timeout = '10min'")

# In pages: behind entries that lack rows, and can't be sent, may be some that can. That they do is
# not asked here, lest PostgreSQL asks it of every pending entry before it sorts them.
_CLAIM = sa.text(
    """
    SELECT llm_name, "timestamp", message_id,
        CAST(xmin AS text) = ANY(CAST(:marks AS text[])) AS reopened
    FROM deliveries
    WHERE published_at IS NULL AND llm_name = ANY(:llm_names)
    AND ("timestamp", llm_name) > (:after, :after_name) AND "timestamp" < :until
    ORDER BY "timestamp", llm_name
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
    """
)

# A statement of its own, since only a new statement sees the rows that were committed together with
# an entry that was claimed just then. As JSON, which is read ten times as fast as arrays are; that
# it has no negative zero does not matter, no metric has one either.
_CLAIMED_VALUES = sa.text(
    """
    SELECT CAST(json_agg(r."values" ORDER BY m.place) AS text)
    FROM unnest(CAST(:llm_names AS text[]), CAST(:timestamps AS timestamptz[]))
        WITH ORDINALITY AS c (llm_name, "timestamp", place)
    CROSS JOIN unnest(CAST(:metrics AS text[])) WITH ORDINALITY AS m (metric, place)
    LEFT JOIN simulation_results AS r
    ON r.llm_name = c.llm_name AND r.metric = m.metric AND r."timestamp" = c."timestamp"
    GROUP BY c.place ORDER BY c.place
    """
)

_MARK_PUBLISHED = sa.text(
    """
    UPDATE deliveries AS d SET published_at = clock_timestamp()
    FROM unnest(
        CAST(:llm_names AS text[]), CAST(:timestamps AS timestamptz[])
    ) AS c (llm_name, "timestamp")
    WHERE d.llm_name = c.llm_name AND d."timestamp" = c."timestamp"
    """
)


@dataclass(frozen=True)
class Span:
    """Some models over a stretch of time.

    Attributes:
        llm_names: the models.
        since: the first label that belongs to it.
        until: the first label that no longer does.
    """

    llm_names: tuple[str, ...]
    since: datetime
    until: datetime


@dataclass(frozen=True)
class MissingWindows:
    """What is missing or undelivered.

    Attributes:
        span: the smallest one around all of it.
        windows: how many windows of a model it is.
    """

    span: Span
    windows: int


def stored_message_ids(
    connection: sa.Connection, llm_name: str, since: datetime, until: datetime
) -> Mapping[datetime, UUID]:
    """Return the message_id of each window of a model that is stored with all four rows.

    Args:
        connection: to the results database.
        llm_name: the model.
        since: the first label asked for.
        until: the first label no longer asked for.
    """
    rows = connection.execute(
        _RECORDED,
        {
            "llm_name": llm_name,
            "since": since,
            "until": until,
            "metrics": list(METRICS),
            "rows": len(METRICS),
        },
    )
    return {row.timestamp.astimezone(UTC): row.message_id for row in rows}


def latest_window_start(connection: sa.Connection, llm_names: Sequence[str]) -> datetime | None:
    """Return the label of the latest window recorded of any of these models, or None."""
    found: datetime | None = connection.execute(_LATEST, {"llm_names": list(llm_names)}).scalar()
    return found.astimezone(UTC) if found else None


def find_missing(
    connection: sa.Connection,
    llm_names: Sequence[str],
    windows: range,
    interval: timedelta,
    busy: Sequence[Span] = (),
) -> MissingWindows | None:
    """Return what is missing or undelivered among some windows, or None.

    A window counts as there when its four rows are stored and its ledger entry says published.
    Entries of these models that lie between the windows (left by another interval) count too.

    Args:
        connection: to the results database.
        llm_names: the models.
        windows: window numbers; a window's label is its number times the interval, from 1970.
        interval: length of a window, whole seconds.
        busy: what an unfinished run is at; left out of the answer.
    """
    busy_rows = [(name, span.since, span.until) for span in busy for name in span.llm_names]
    rows = connection.execute(
        _GAPS,
        {
            "llm_names": list(llm_names),
            "first": windows.start,
            "stop": windows.stop,
            "interval": interval // timedelta(seconds=1),
            "since": _EPOCH + windows.start * interval,
            "until": _EPOCH + windows.stop * interval,
            "metrics": list(METRICS),
            "rows": len(METRICS),
            "busy_names": [name for name, _, _ in busy_rows],
            "busy_since": [since for _, since, _ in busy_rows],
            "busy_until": [until for _, _, until in busy_rows],
        },
    ).all()
    if not rows:
        return None
    incomplete = {row.llm_name for row in rows}
    span = Span(
        llm_names=tuple(name for name in llm_names if name in incomplete),
        since=min(row.earliest for row in rows).astimezone(UTC),
        until=max(row.latest for row in rows).astimezone(UTC) + interval,
    )
    return MissingWindows(span, sum(row.windows for row in rows))


def count_pending(connection: sa.Connection, span: Span) -> int:
    """Return how many entries of a span are to be sent, those that others are at included."""
    return int(
        connection.execute(
            _COUNT_PENDING,
            {"llm_names": list(span.llm_names), "since": span.since, "until": span.until},
        ).scalar_one()
    )


@dataclass(frozen=True)
class Reopened:
    """Delivered entries that were made pending again.

    Attributes:
        entries: how many.
        marks: by which `claim` recognises them, as long as nothing else has become of them.
    """

    entries: int
    marks: tuple[str, ...]


def reopen(connection: sa.Connection, span: Span) -> Reopened:
    """Make every delivered entry of a span pending again.

    Args:
        connection: to the results database, in a transaction that the caller commits.
        span: models and labels.
    """
    rows = connection.execute(
        _REOPEN,
        {"llm_names": list(span.llm_names), "since": span.since, "until": span.until},
    ).all()
    return Reopened(sum(row.entries for row in rows), tuple(row.mark for row in rows))


@dataclass(frozen=True)
class Pending:
    """A window that is to be sent.

    Attributes:
        llm_name: the model.
        timestamp: the window's label, UTC.
        message_id: the id it is sent under.
        values: shape (4, points), in the order of `METRICS`.
        reopened: whether it was delivered under this id before, and opened again by one of those
            that the claim was told of.
    """

    llm_name: str
    timestamp: datetime
    message_id: UUID
    values: NDArray[np.float64]
    reopened: bool


class Claim:
    """Pending entries, locked for as long as the transaction around them is open."""

    def __init__(self, connection: sa.Connection, pending: Sequence[Pending]) -> None:
        self._connection = connection
        self.pending = pending

    def mark_published(self, message_ids: Collection[UUID]) -> None:
        """Enter as delivered what the broker confirmed; committed with the claim.

        Raises:
            sqlalchemy.exc.OperationalError: the connection is lost; the entries stay pending.
        """
        wanted = set(message_ids)
        confirmed = [entry for entry in self.pending if entry.message_id in wanted]
        self._connection.execute(
            _MARK_PUBLISHED,
            {
                "llm_names": [entry.llm_name for entry in confirmed],
                "timestamps": [entry.timestamp for entry in confirmed],
            },
        )


@contextmanager
def claim(
    engine: sa.Engine, span: Span, limit: int, marks: Collection[str] = ()
) -> Iterator[Claim]:
    """Lock up to `limit` pending entries of a span, with the rows that are to be sent.

    Entries that another process has locked are passed over, and so are those that lack rows. What
    was marked published is committed at the end, also when the body raises: a confirm that was
    received stays received.

    Args:
        engine: of the results database.
        span: models and labels to look at.
        limit: how many entries at the most, all held in memory with their values.
        marks: of entries opened again that are to be told from the others.

    Raises:
        sqlalchemy.exc.OperationalError: the database can't be reached, or the connection is lost
            before the end; the entries stay pending.
        ValueError: the four metrics of a window have different numbers of values.
    """
    with engine.connect() as connection:
        pending = _claim(connection, span, limit, marks)
        try:
            yield Claim(connection, pending)
        finally:
            # Where the connection is lost, the error that says so is already on its way.
            if not connection.invalidated:
                connection.commit()


def _claim(
    connection: sa.Connection, span: Span, limit: int, marks: Collection[str]
) -> list[Pending]:
    connection.execute(_GIVE_UP_CLAIM)
    pending: list[Pending] = []
    after, after_name = span.since, ""
    while wanted := limit - len(pending):
        entries = connection.execute(
            _CLAIM,
            {
                "llm_names": list(span.llm_names),
                "after": after,
                "after_name": after_name,
                "until": span.until,
                "limit": wanted,
                "marks": list(marks),
            },
        ).all()
        texts = connection.execute(
            _CLAIMED_VALUES,
            {
                "llm_names": [entry.llm_name for entry in entries],
                "timestamps": [entry.timestamp for entry in entries],
                "metrics": list(METRICS),
            },
        ).scalars()
        for entry, text in zip(entries, texts, strict=True):
            rows = orjson.loads(text)
            if None not in rows:
                label = entry.timestamp.astimezone(UTC)
                values = _values(entry.llm_name, label, rows)
                pending.append(
                    Pending(entry.llm_name, label, entry.message_id, values, entry.reopened)
                )
        if len(entries) < wanted:
            break
        after, after_name = entries[-1].timestamp, entries[-1].llm_name
    return pending


def _values(llm_name: str, label: datetime, rows: list[list[float | str]]) -> NDArray[np.float64]:
    counts = [len(row) for row in rows]
    if len(set(counts)) > 1:
        raise ValueError(
            f"{llm_name} {label.isoformat()}: {', '.join(METRICS)} have {counts} values:"
            " allowed is the same number in each"
        )
    # NaN and the infinities, which JSON lacks, come as text: NumPy reads that, too.
    return np.array(rows, dtype=np.float64)
