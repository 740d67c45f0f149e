"""A database with days of simulated data, for the documented queries."""

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import uuid4

import pytest
import sqlalchemy as sa

from sim_pipeline.comparison.ranking import rank_models, save_ranking
from sim_pipeline.comparison.sampling import sampling
from sim_pipeline.feed.selection import Selection
from sim_pipeline.feed.simulate import MetricFrames
from sim_pipeline.feed.slos import save_limits
from sim_pipeline.local_servers.postgres import LocalPostgres
from sim_pipeline.simulator.profiles_file import read_profiles
from sim_pipeline.store.batches import SimulatedEvent
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.events import read_events
from sim_pipeline.store.ledger import Span
from sim_pipeline.store.migrations import upgrade
from sim_pipeline.store.writer import BatchWriter
from sim_pipeline.windows import Cadence
from sim_pipeline_tests.support.databases import database_in

MODELS: Final = ("DeepSeek-V3", "GPT-4o", "Llama-3.1-8B")
"""The models of the fixture `history`."""
PENDING: Final = 2
"""The number of newest windows of each model that are not delivered in `history`."""

_DAYS = 9
_REQUESTS = ("TTFT", "TPS", "e2e_latency")
# Kind, start and end in hours before the end of the history, metrics.
_EVENTS: Final = (
    ("capacity", 180.5, 160.5, _REQUESTS),
    ("release", 140.5, None, ("RPS",)),
    ("level_shift", 100.5, None, _REQUESTS),
    ("incident", 50.5, 46.5, _REQUESTS),
    ("burst", 30.5, 28.5, _REQUESTS),
    ("failure_spell", 20.5, 19.5, _REQUESTS),
    ("retirement", 5.5, None, ("RPS",)),
)
_HOUR = timedelta(hours=1)


def _events(until: datetime) -> list[SimulatedEvent]:
    return [
        SimulatedEvent(
            uuid4(),
            name,
            kind,
            until - start * _HOUR,
            None if end is None else until - end * _HOUR,
            0.123456,
            metrics,
        )
        for kind, start, end, metrics in _EVENTS
        for name in MODELS
    ]


@pytest.fixture(scope="session")
def history(postgres_server: LocalPostgres) -> Iterator[Postgres]:
    """The hourly windows of the last nine days; all but the newest few are delivered.

    Instead of the events of the simulation, which depend on the date, each model has one of each
    kind. Read-only: the whole session shares this database.
    """
    postgres_server.ensure_database("history")
    postgres = database_in(postgres_server, "history")
    upgrade(postgres)
    now = datetime.now(UTC)
    cadence = Cadence(3600, now - timedelta(days=_DAYS) - _HOUR)
    windows = cadence.windows_between(now - timedelta(days=_DAYS), now - _HOUR)
    span = Span(MODELS, cadence.start_of(windows.start), cadence.start_of(windows.stop))
    profiles = read_profiles(None, MODELS)
    save_limits(postgres, profiles.values())
    frames = MetricFrames(
        Selection(MODELS, windows, span),
        profiles,
        cadence=cadence,
        points=5,
        seed=42,
        postgres=postgres,
    )
    with BatchWriter(postgres) as writer:
        for part in frames:
            writer.write(dataclasses.replace(part, events=_events(span.until)))
    with postgres.engine.begin() as connection:
        latest = span.until - _HOUR
        ranking, _ = rank_models(connection, MODELS, latest, _HOUR, sampling(_HOUR, points=5))
        save_ranking(connection, ranking, span.until)
        # As if each window had been stored at its end and confirmed two seconds later.
        connection.execute(
            sa.text(
                """
                UPDATE deliveries SET created_at = "timestamp" + interval '1 hour',
                    published_at = CASE WHEN "timestamp" < :pending
                        THEN "timestamp" + interval '1 hour 2 seconds' END
                """
            ),
            {"pending": span.until - PENDING * _HOUR},
        )
    yield postgres
    postgres.engine.dispose()


@pytest.fixture(scope="session")
def events(history: Postgres) -> list[SimulatedEvent]:
    """The events of `history`, by start."""
    with history.engine.connect() as connection:
        now = datetime.now(UTC)
        return read_events(connection, MODELS, now - timedelta(days=_DAYS), now)
