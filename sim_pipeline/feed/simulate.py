"""`MetricFrames`: simulates the missing windows of a run in batches, so that memory stays bounded.

The asset `metric_frames` iterates it, and the I/O manager stores each batch.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from sim_pipeline.broker.message import message_id
from sim_pipeline.feed.events import simulated_event, touching
from sim_pipeline.feed.run_stats import RunStats
from sim_pipeline.feed.selection import Selection
from sim_pipeline.metrics import METRICS
from sim_pipeline.simulator.events import events_between
from sim_pipeline.simulator.fingerprint import fingerprints
from sim_pipeline.simulator.profiles import Profile
from sim_pipeline.simulator.simulation import simulate
from sim_pipeline.store.batches import SimulatedEvent, WindowBatch
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.ledger import stored_message_ids
from sim_pipeline.windows import DAY, Cadence

# Limits of a batch, which bound its memory here and in the database: about this many values (4 MB),
# but at least one window; and this many windows.
_BATCH_VALUES = 500_000
_BATCH_WINDOWS = 10_000


@dataclass(frozen=True)
class _Block:
    """Windows of one model to simulate, with their message ids."""

    profile: Profile
    windows: NDArray[np.int64]
    window_starts: list[datetime]
    message_ids: list[UUID]


class MetricFrames:
    """The batches of a run's windows, each simulated when the iterator reaches it.

    Windows already stored under the same message_id are skipped. Iterate only once.

    Attributes:
        stats: what was simulated and skipped so far.
    """

    def __init__(
        self,
        selection: Selection,
        profiles: dict[str, Profile],
        *,
        cadence: Cadence,
        points: int,
        seed: int,
        postgres: Postgres,
        replace: bool = True,
        force: bool = False,
    ) -> None:
        """Keep the arguments; reading and simulating start with the iteration.

        Args:
            selection: the models and windows.
            profiles: profile of each model, by name.
            cadence: converts window numbers to times.
            points: values per metric and window.
            seed: seed of the random streams.
            postgres: the results database.
            replace: also simulate windows that are stored under another message_id.
            force: simulate every window.
        """
        self.stats = RunStats()
        self._selection = selection
        self._force = force
        self._profiles = profiles
        self._cadence = cadence
        self._points = points
        self._seed = seed
        self._postgres = postgres
        self._replace = replace
        self._limit = max(1, min(_BATCH_WINDOWS, _BATCH_VALUES // (len(METRICS) * points)))

    @property
    def windows(self) -> int:
        """The number of windows of the run, each of one model."""
        return len(self._selection.llm_names) * len(self._selection.windows)

    def partition_metadata(self) -> dict[tuple[date, str], dict[str, float | str]]:
        """Return the metadata of each partition of the run so far, by day and model."""
        windows = self._selection.windows
        days = Counter(self._cadence.day_of(window) for window in windows)
        return self.stats.metadata(
            {(day, name): days[day] for day in days for name in self._selection.llm_names},
            self._points,
        )

    def __iter__(self) -> Iterator[WindowBatch]:
        gathered: list[_Block] = []
        room = self._limit
        for block in self._blocks():
            if len(block.windows) > room:
                yield self._simulate(gathered)
                gathered, room = [], self._limit
            gathered.append(block)
            room -= len(block.windows)
        if gathered:
            yield self._simulate(gathered)

    def _blocks(self) -> Iterator[_Block]:
        """Return the windows to simulate, model by model, in blocks of at most a batch."""
        windows = self._selection.windows
        for llm_name in self._selection.llm_names:
            for first in range(windows.start, windows.stop, self._limit):
                numbers = range(first, min(first + self._limit, windows.stop))
                block = self._missing(self._profiles[llm_name], numbers)
                self.stats.skipped += len(numbers) - len(block.windows)
                if len(block.windows):
                    yield block

    def _missing(self, profile: Profile, numbers: range) -> _Block:
        windows = np.arange(numbers.start, numbers.stop, dtype=np.int64)
        prints = fingerprints(
            profile,
            windows,
            interval=self._cadence.interval,
            points=self._points,
            seed=self._seed,
        )
        window_starts = [self._cadence.start_of(window) for window in numbers]
        ids = [
            message_id(profile.name, start, fingerprint)
            for start, fingerprint in zip(window_starts, prints, strict=True)
        ]
        if not self._force:
            with self._postgres.engine.connect() as connection:
                stored = stored_message_ids(
                    connection,
                    profile.name,
                    window_starts[0],
                    self._cadence.start_of(numbers.stop),
                )
            wanted = [
                index
                for index, start in enumerate(window_starts)
                if start not in stored or (self._replace and stored[start] != ids[index])
            ]
            windows = windows[wanted]
            window_starts = [window_starts[index] for index in wanted]
            ids = [ids[index] for index in wanted]
        return _Block(profile, windows, window_starts, ids)

    def _simulate(self, blocks: list[_Block]) -> WindowBatch:
        values, counts = [], []
        interval = self._cadence.interval
        events: set[SimulatedEvent] = set()
        for block in blocks:
            simulation = simulate(
                block.profile,
                block.windows,
                interval=interval,
                points=self._points,
                seed=self._seed,
            )
            metrics = np.stack(
                [simulation.ttft, simulation.tps, simulation.e2e_latency, simulation.rps], axis=1
            )
            first, last = int(block.windows[0]) * interval, int(block.windows[-1]) * interval
            known = events_between(
                block.profile, first // DAY * DAY, last + interval, seed=self._seed
            )
            self.stats.count(
                block.profile, block.windows, interval, simulation, metrics, events=known
            )
            events.update(
                simulated_event(block.profile.name, event)
                for event in touching(known, block.windows, interval)
            )
            values.append(metrics)
            counts.append(np.column_stack([simulation.completed, simulation.failed]))
        return WindowBatch(
            [block.profile.name for block in blocks for _ in block.windows],
            [start.astimezone(UTC) for block in blocks for start in block.window_starts],
            [uuid for block in blocks for uuid in block.message_ids],
            np.concatenate(values),
            np.concatenate(counts),
            window_seconds=interval,
            events=sorted(events, key=lambda event: (event.started_at, event.event_id)),
        )
