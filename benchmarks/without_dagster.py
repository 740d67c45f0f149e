"""A baseline of the backfill: the same work by the library's own functions, without Dagster.

Each process simulates, stores and publishes the windows of its days, as a run does. It has no
events, checks, partitions, progress or retries.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from sim_pipeline.config import load_settings
from sim_pipeline.connections import message_broker, results_database
from sim_pipeline.feed.publish import publish_pending
from sim_pipeline.feed.run_stats import PublishCounts
from sim_pipeline.feed.selection import select
from sim_pipeline.feed.simulate import MetricFrames
from sim_pipeline.partition_keys import partition_key
from sim_pipeline.simulator.profiles_file import read_profiles
from sim_pipeline.store.writer import BatchWriter
from sim_pipeline.windows import Cadence

_ROOT = Path(__file__).parents[1]


def seconds_taken(directory: Path, days: Sequence[Sequence[date]]) -> float:
    """Do the work of all models in as many processes as there are parts, and return the seconds.

    Args:
        directory: has the `.env` of the servers.
        days: consecutive days for each process.

    Raises:
        RuntimeError: a process failed.
    """
    start = time.perf_counter()
    processes = [
        subprocess.Popen(  # noqa: S603 - this module
            [sys.executable, "-m", __name__, part[0].isoformat(), part[-1].isoformat()],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
        )
        for part in days
    ]
    # Wait for all of them.
    if sum(process.wait() != 0 for process in processes):
        raise RuntimeError("a process of the baseline failed")
    return time.perf_counter() - start


def main(first_day: str, last_day: str) -> None:
    """Simulate, store and publish the windows of all models on these days."""
    settings = load_settings()
    cadence = Cadence(settings.simulation_interval, settings.simulation_start)
    first, last = date.fromisoformat(first_day), date.fromisoformat(last_day)
    selection = select(
        [
            partition_key(first + timedelta(days=day), llm_name)
            for day in range((last - first).days + 1)
            for llm_name in settings.llm_models
        ],
        cadence,
        began=datetime.now(UTC),
    )
    postgres = results_database(settings)
    frames = MetricFrames(
        selection,
        read_profiles(settings.model_profiles_file, selection.llm_names),
        cadence=cadence,
        points=settings.num_data_points,
        seed=settings.random_seed,
        postgres=postgres,
        replace=False,
    )
    with BatchWriter(postgres) as writer:
        for batch in frames:
            writer.write(batch)
    publish_pending(
        postgres.engine,
        message_broker(settings),
        selection.span,
        settings.num_data_points,
        PublishCounts(),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
