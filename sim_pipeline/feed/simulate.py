"""The frames of a run: simulated slice by slice, so that memory is bounded whatever the range.

Knows no Dagster: `metric_frames` hands the object out, the I/O manager iterates it.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from sim_pipeline.broker.message import message_id
from sim_pipeline.feed.run_stats import RunStats
from sim_pipeline.feed.selection import Selection
from sim_pipeline.metrics import METRICS
from sim_pipeline.simulator.fingerprint import fingerprints
from sim_pipeline.simulator.profiles import Profile
from sim_pipeline.simulator.simulation import simulate
from sim_pipeline.store.batches import Slice
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.ledger import stored_message_ids
from sim_pipeline.windows import Cadence

# A slice holds at most about this many values (4 MB), at the least a window, and never more than
# this many windows: both bound what a slice costs in memory, here and in the database.
_SLICE_VALUES = 500_000
_SLICE_WINDOWS = 10_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Block:
    """Windows of one model that are to be simulated, with the ids they are to get."""

    profile: Profile
    windows: NDArray[np.int64]
    labels: list[datetime]
    message_ids: list[UUID]


class MetricFrames:
    """The slices of a run's windows, each simulated when it is asked for.

    What the database holds already is recognised by its message_id and is not simulated. Iterate
    it once; `tally` then says what was done.
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
        """Describe the frames; nothing is read or simulated yet.

        Args:
            selection: the models and windows.
            profiles: by model.
            cadence: what a window's number means.
            points: values per metric and window.
            seed: of the random numbers.
            postgres: where the windows already stored are looked up.
            replace: hand out windows that are stored under another message_id.
            force: hand out every window.
        """
        self.selection = selection
        self.force = force
        self.tally = RunStats()
        self._profiles = profiles
        self._cadence = cadence
        self._points = points
        self._seed = seed
        self._postgres = postgres
        self._replace = replace
        self._limit = max(1, min(_SLICE_WINDOWS, _SLICE_VALUES // (len(METRICS) * points)))

    @property
    def windows(self) -> int:
        """How many windows of a model the run is for."""
        return len(self.selection.llm_names) * len(self.selection.windows)

    def partition_metadata(self) -> dict[tuple[date, str], dict[str, float]]:
        """Say, by day and model, what was done so far of each partition of the run."""
        windows = self.selection.windows
        days = Counter(self._cadence.day_of(window) for window in windows)
        return self.tally.metadata(
            {(day, name): days[day] for day in days for name in self.selection.llm_names},
            self._points,
        )

    def __iter__(self) -> Iterator[Slice]:
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
        """Go through the models, a stretch of windows at a time; leave out what is there."""
        windows = self.selection.windows
        for llm_name in self.selection.llm_names:
            for first in range(windows.start, windows.stop, self._limit):
                stretch = range(first, min(first + self._limit, windows.stop))
                block = self._missing(self._profiles[llm_name], stretch)
                self.tally.kept += len(stretch) - len(block.windows)
                if len(block.windows):
                    yield block

    def _missing(self, profile: Profile, stretch: range) -> _Block:
        windows = np.arange(stretch.start, stretch.stop, dtype=np.int64)
        prints = fingerprints(
            profile,
            windows,
            interval=self._cadence.interval,
            points=self._points,
            seed=self._seed,
        )
        labels = [self._cadence.start_of(window) for window in stretch]
        ids = [
            message_id(profile.name, label, fingerprint)
            for label, fingerprint in zip(labels, prints, strict=True)
        ]
        if not self.force:
            with self._postgres.engine.connect() as connection:
                stored = stored_message_ids(
                    connection,
                    profile.name,
                    labels[0],
                    self._cadence.start_of(stretch.stop),
                )
            wanted = [
                index
                for index, label in enumerate(labels)
                if label not in stored or (self._replace and stored[label] != ids[index])
            ]
            windows = windows[wanted]
            labels = [labels[index] for index in wanted]
            ids = [ids[index] for index in wanted]
        return _Block(profile, windows, labels, ids)

    def _simulate(self, blocks: list[_Block]) -> Slice:
        values = []
        for block in blocks:
            simulation = simulate(
                block.profile,
                block.windows,
                interval=self._cadence.interval,
                points=self._points,
                seed=self._seed,
            )
            metrics = np.stack(
                [simulation.ttft, simulation.tps, simulation.e2e_latency, simulation.rps], axis=1
            )
            self.tally.count(
                block.profile, block.windows, self._cadence.interval, simulation, metrics
            )
            values.append(metrics)
        return Slice(
            [block.profile.name for block in blocks for _ in block.windows],
            [label.astimezone(UTC) for block in blocks for label in block.labels],
            [one for block in blocks for one in block.message_ids],
            np.concatenate(values),
        )
