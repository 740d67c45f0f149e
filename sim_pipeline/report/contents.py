"""Reads what a report shows from the results database."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from sim_pipeline.comparison.attainment import Attainment, read_attainment
from sim_pipeline.comparison.ranking import Comparison, History, rank_models
from sim_pipeline.comparison.sampling import Sampling, sampling
from sim_pipeline.store.batches import SimulatedEvent
from sim_pipeline.store.events import read_events
from sim_pipeline.windows import Cadence

_TOTALS = sa.text(
    """
    SELECT m.llm_name, count(d.llm_name) AS stored, count(d.published_at) AS published,
        CAST(coalesce(sum(c.completed), 0) AS bigint) AS completed,
        CAST(coalesce(sum(c.rate_limited + c.overloaded + c.timeout), 0) AS bigint) AS failed
    FROM unnest(CAST(:llm_names AS text[])) WITH ORDINALITY AS m (llm_name, place)
    LEFT JOIN deliveries AS d ON d.llm_name = m.llm_name
        AND d."timestamp" >= :since AND d."timestamp" < :until
        AND extract(epoch FROM d."timestamp") % :interval = 0
    LEFT JOIN request_counts AS c ON c.llm_name = d.llm_name AND c."timestamp" = d."timestamp"
    GROUP BY m.llm_name, m.place
    ORDER BY m.place
    """
)


@dataclass(frozen=True)
class Totals:
    """The windows and requests of a model in a period.

    Attributes:
        llm_name: the model.
        stored: windows that are stored.
        published: windows whose message RabbitMQ confirmed.
        completed: requests that completed.
        failed: requests that failed.
    """

    llm_name: str
    stored: int
    published: int
    completed: int
    failed: int

    @property
    def failed_share(self) -> float | None:
        """Share of the requests that failed; None without requests."""
        return (
            self.failed / (self.completed + self.failed) if self.completed or self.failed else None
        )


@dataclass(frozen=True, eq=False)
class Contents:
    """What a report shows.

    Attributes:
        since: start of the first window of the period.
        until: end of its last window.
        interval: length of a window.
        points: values per metric and window.
        windows: windows of each model in the period.
        sampled: which values the ranking reads.
        ranking: the models' places by metric.
        history: medians over time.
        hours: length of the period, rounded up [h].
        events: simulated events that overlap the period, by start.
        marked: simulated events that overlap the history, by start.
        attainment: how well the models keep their objectives.
        totals: windows and requests, in the order of the models.
    """

    since: datetime
    until: datetime
    interval: timedelta
    points: int
    windows: int
    hours: int
    sampled: Sampling
    ranking: Sequence[Comparison]
    history: History
    events: Sequence[SimulatedEvent]
    marked: Sequence[SimulatedEvent]
    attainment: Sequence[Attainment]
    totals: Sequence[Totals]


def read_contents(
    connection: sa.Connection,
    llm_names: Sequence[str],
    windows: range,
    cadence: Cadence,
    points: int,
) -> Contents:
    """Return what a report of some windows shows.

    Args:
        connection: to the results database, in a transaction.
        llm_names: the models.
        windows: numbers of the windows of the period, at least one. Earlier windows are added to
            fill whole hours, which rankings are about.
        cadence: the windows of the feed.
        points: values per metric and window.
    """
    interval = timedelta(seconds=cadence.interval)
    until = cadence.start_of(windows.stop)
    latest = until - interval
    hours = -(-(until - cadence.start_of(windows.start)) // timedelta(hours=1))
    # As in a ranking, windows of a period start less than its length before the latest one.
    first = cadence.window_at(latest - timedelta(hours=hours)) + 1
    windows = range(max(first, cadence.first_window), windows.stop)
    since = cadence.start_of(windows.start)
    sampled = sampling(interval, points)
    ranking, history = rank_models(
        connection, llm_names, latest, interval, sampled, periods=(hours,)
    )
    rows = connection.execute(
        _TOTALS,
        {
            "llm_names": list(llm_names),
            "since": since,
            "until": until,
            "interval": cadence.interval,
        },
    )
    return Contents(
        since=since,
        until=until,
        interval=interval,
        points=points,
        windows=len(windows),
        hours=hours,
        sampled=sampled,
        ranking=ranking,
        history=history,
        events=read_events(connection, llm_names, since, until),
        marked=read_events(connection, llm_names, history.starts[0], until),
        attainment=read_attainment(connection, llm_names, latest, sampled, periods=(hours,)),
        totals=[Totals(*row) for row in rows],
    )
