"""Counts of what a run simulated (`RunStats`) and published (`PublishCounts`), per partition.

The counts are kept while the run works; nothing here reads the database.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

import numpy as np
from numpy.typing import NDArray

from sim_pipeline.feed.events import events_table
from sim_pipeline.metrics import FAILURE_KINDS, METRICS, UNITS
from sim_pipeline.simulator.events import Event
from sim_pipeline.simulator.profiles import Profile
from sim_pipeline.simulator.simulation import Simulation
from sim_pipeline.store.ledger import Pending
from sim_pipeline.windows import DAY

# In the order of `FAILURE_KINDS`.
_FAILURES = ("rate limited", "overloaded", "timed out")


@dataclass
class PartitionStats:
    """The windows of one model and day that a run simulated.

    Attributes:
        simulated: number of windows.
        completed: number of their requests that completed.
        failed: number of their requests that failed by kind, shape (3,), in the order of
            `FAILURE_KINDS`.
        utilisation: sum of the windows' mean utilisations.
        medians: medians of each window and metric, a list of arrays of shape (windows, 4). A day of
            one-second windows takes 3 MB for any number of points; the values would take more.
        events: those from the start of the day to the end of its last window that was simulated.
    """

    simulated: int = 0
    completed: int = 0
    failed: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(len(FAILURE_KINDS), dtype=np.int64)
    )
    utilisation: float = 0.0
    medians: list[NDArray[np.float64]] = field(default_factory=list)
    events: set[Event] = field(default_factory=set)

    def metadata(self, windows: int, points: int) -> dict[str, float | str]:
        """Return the partition's metadata for the UI; text is Markdown.

        Args:
            windows: number of windows of the partition in the run; those not simulated were stored
                already.
            points: values per metric and window.
        """
        entries: dict[str, float | str] = {
            "windows simulated": self.simulated,
            "windows already stored": windows - self.simulated,
        }
        if self.simulated:
            typical = np.median(np.concatenate(self.medians), axis=0).tolist()
            failed = int(self.failed.sum())
            entries |= {
                "points per metric": self.simulated * points,
                "requests completed": self.completed,
                "requests failed": failed,
                **{
                    f"requests {failure}": count
                    for failure, count in zip(_FAILURES, self.failed.tolist(), strict=True)
                },
                # Without requests, none failed.
                "share of requests failed": round(failed / max(1, self.completed + failed), 5),
                "mean utilisation": round(self.utilisation / self.simulated, 4),
            }
            for metric, median in zip(METRICS, typical, strict=True):
                # Five digits are enough to read; the table has the exact values.
                entries[f"{metric} p50 [{UNITS[metric]}]"] = float(f"{median:.5g}")
            entries["events"] = events_table(self.events)
        return entries


@dataclass
class RunStats:
    """The windows of a run: simulated or skipped.

    Attributes:
        simulated: number of windows simulated.
        skipped: number of windows that were stored already.
        partitions: the simulated windows, by UTC day and model.
    """

    simulated: int = 0
    skipped: int = 0
    partitions: dict[tuple[date, str], PartitionStats] = field(default_factory=dict)

    def count(
        self,
        profile: Profile,
        windows: NDArray[np.int64],
        interval: int,
        simulation: Simulation,
        values: NDArray[np.float64],
        *,
        events: Sequence[Event],
    ) -> None:
        """Count windows of one model that were simulated together.

        Args:
            profile: profile of the model.
            windows: window numbers, ascending, shape (windows,).
            interval: length of a window [s].
            simulation: result of the simulation.
            values: its metrics, shape (windows, 4, points).
            events: the model's events from the start of the first window's day to the end of the
                last window.
        """
        self.simulated += len(windows)
        medians = np.median(values, axis=2)
        days, starts = np.unique(windows * interval // DAY, return_index=True)
        for day, start, stop in zip(
            days.tolist(), starts, [*starts[1:], len(windows)], strict=True
        ):
            key = datetime.fromtimestamp(day * DAY, UTC).date(), profile.name
            partition = self.partitions.setdefault(key, PartitionStats())
            partition.simulated += int(stop - start)
            partition.completed += int(simulation.completed[start:stop].sum())
            partition.failed += simulation.failed[start:stop].sum(axis=0)
            partition.utilisation += float(simulation.utilisation[start:stop].sum())
            partition.medians.append(medians[start:stop])
            end = (int(windows[stop - 1]) + 1) * interval
            partition.events.update(event for event in events if event.overlaps(day * DAY, end))

    def metadata(
        self, windows: Mapping[tuple[date, str], int], points: int
    ) -> dict[tuple[date, str], dict[str, float | str]]:
        """Return the metadata of each partition of the run, also of those with nothing simulated.

        Args:
            windows: number of windows of each partition in the run.
            points: values per metric and window.
        """
        return {
            key: self.partitions.get(key, PartitionStats()).metadata(count, points)
            for key, count in windows.items()
        }


@dataclass
class PublishCounts:
    """Messages that the broker confirmed and the ledger has as published, by day and model.

    The counts cover all attempts of the step. A message counts as resent if it was published under
    the same id before this run reopened its entry (`resend`). An entry that an earlier run reopened
    and did not publish does not count: the ledger cannot tell it from one never published.

    Attributes:
        messages: all messages, by UTC day of the window and model.
        resent: the resent ones among them.
        reopen_transaction_ids: ids of the transactions in which this run reopened entries. They are
            recorded before the commit: if the connection is lost during a commit, it is unknown
            whether the commit succeeded.
        reopened: whether a commit succeeded, so that later attempts do not reopen entries again.
    """

    messages: Counter[tuple[date, str]] = field(default_factory=Counter)
    resent: Counter[tuple[date, str]] = field(default_factory=Counter)
    reopen_transaction_ids: list[str] = field(default_factory=list)
    reopened: bool = False

    def count(self, published: Iterable[Pending]) -> None:
        """Count windows that have just been published."""
        for window in published:
            key = window.window_start.date(), window.llm_name
            self.messages[key] += 1
            if window.reopened:
                self.resent[key] += 1
