"""A database with days of simulated data, for the documented queries."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
import sqlalchemy as sa

from sim_pipeline.feed.selection import Selection
from sim_pipeline.feed.simulate import MetricFrames
from sim_pipeline.local_servers.postgres import LocalPostgres
from sim_pipeline.simulator.profiles_file import read_profiles
from sim_pipeline.store.connection import Postgres
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
_HOUR = timedelta(hours=1)


@pytest.fixture(scope="session")
def history(postgres_server: LocalPostgres) -> Iterator[Postgres]:
    """The hourly windows of the last nine days; all but the newest few are delivered.

    Read-only: the whole session shares this database.
    """
    postgres_server.ensure_database("history")
    postgres = database_in(postgres_server, "history")
    upgrade(postgres)
    now = datetime.now(UTC)
    cadence = Cadence(3600, now - timedelta(days=_DAYS) - _HOUR)
    windows = cadence.windows_between(now - timedelta(days=_DAYS), now - _HOUR)
    span = Span(MODELS, cadence.start_of(windows.start), cadence.start_of(windows.stop))
    frames = MetricFrames(
        Selection(MODELS, windows, span),
        read_profiles(None, MODELS),
        cadence=cadence,
        points=5,
        seed=42,
        postgres=postgres,
    )
    with BatchWriter(postgres) as writer:
        for part in frames:
            writer.write(part)
    with postgres.engine.begin() as connection:
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
