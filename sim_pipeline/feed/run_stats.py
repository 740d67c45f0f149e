"""What becomes of each partition of a run, counted while the run goes: numbers that are in hand.

Knows no Dagster, and asks nobody: `MetricFrames` counts what it simulates as it hands it out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

import numpy as np
from numpy.typing import NDArray

from sim_pipeline.metrics import METRICS, UNITS
from sim_pipeline.simulator.profiles import Profile
from sim_pipeline.simulator.simulation import Simulation
from sim_pipeline.windows import DAY


@dataclass
class PartitionStats:
    """The windows of a model and day that a run simulated.

    Attributes:
        simulated: how many windows.
        completed: their requests that completed.
        failed: their requests that failed.
        utilisation: the sum of their mean utilisations.
        medians: of each window and metric, shape (windows, 4), a block at a time. At an interval
            of a second a day's take 3 MB, whatever the number of points, which the values do not.
    """

    simulated: int = 0
    completed: int = 0
    failed: int = 0
    utilisation: float = 0.0
    medians: list[NDArray[np.float64]] = field(default_factory=list)

    def metadata(self, windows: int, points: int) -> dict[str, float]:
        """Say what there is to say of the partition, for people.

        Args:
            windows: of the partition that the run was for; those not simulated were there.
            points: values per metric and window.
        """
        entries: dict[str, float] = {
            "windows simulated": self.simulated,
            "windows already there": windows - self.simulated,
        }
        if self.simulated:
            typical = np.median(np.concatenate(self.medians), axis=0).tolist()
            entries |= {
                "points per metric": self.simulated * points,
                "requests completed": self.completed,
                "requests failed": self.failed,
                "utilisation, mean": round(self.utilisation / self.simulated, 4),
            }
            for metric, median in zip(METRICS, typical, strict=True):
                # Five digits: a person reads it, the table has the values.
                entries[f"{metric} p50 [{UNITS[metric]}]"] = float(f"{median:.5g}")
        return entries


@dataclass
class RunStats:
    """What became of the windows of a run.

    Attributes:
        simulated: windows simulated and handed out.
        kept: windows found stored and left as they are.
        partitions: of what was simulated, by UTC day and model.
    """

    simulated: int = 0
    kept: int = 0
    partitions: dict[tuple[date, str], PartitionStats] = field(default_factory=dict)

    def count(
        self,
        profile: Profile,
        windows: NDArray[np.int64],
        interval: int,
        simulation: Simulation,
        values: NDArray[np.float64],
    ) -> None:
        """Count windows of a model that were simulated together.

        Args:
            profile: of the model.
            windows: their numbers, ascending, shape (windows,).
            interval: length of a window, seconds.
            simulation: what came of them.
            values: its metrics, shape (windows, 4, points).
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
            partition.failed += int(simulation.failed[start:stop].sum())
            partition.utilisation += float(simulation.utilisation[start:stop].sum())
            partition.medians.append(medians[start:stop])

    def metadata(
        self, windows: Mapping[tuple[date, str], int], points: int
    ) -> dict[tuple[date, str], dict[str, float]]:
        """Say it of each partition of the run, those included of which nothing was simulated.

        Args:
            windows: how many windows of each partition the run was for.
            points: values per metric and window.
        """
        return {
            key: self.partitions.get(key, PartitionStats()).metadata(count, points)
            for key, count in windows.items()
        }
