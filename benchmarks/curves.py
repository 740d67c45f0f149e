"""Benchmark: time per window and memory of a run worker, by the size of the run. Linux only.

Each measurement is one run over a range of models and days, in a fresh process, with Dagster's
storage, the results database and the broker as in service (`benchmarks/range_run.py`). Two more
measure the extremes of the settings: many values per window, and many windows per day.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from benchmarks.dagster_service import DagsterService
from benchmarks.figures import Limit, Row
from benchmarks.range_run import RangeRun, range_run

_HOUR = 3600
_DAY = 24 * _HOUR
_TIMES = 3
_LINEAR = Limit(1.2)
_SAME_MEMORY = Limit(1.1)
_MEMORY = Limit(512)


@dataclass(frozen=True)
class Size:
    """The size of a run.

    Attributes:
        models: number of models.
        days: number of days.
        points: values per metric and window.
        interval: length of a window, in seconds.
    """

    models: int
    days: int
    points: int = 5
    interval: int = _HOUR

    @property
    def windows(self) -> int:
        """The number of windows of all models."""
        return self.models * self.days * _DAY // self.interval

    def __str__(self) -> str:
        return (
            f"{self.windows:,} windows: {self.models} models, {self.days} days,"
            f" {self.points:,} points, every {self.interval:,} s"
        )


_SMALL, _LARGE, _YEAR, _DECADE = Size(8, 5), Size(8, 52), Size(8, 365), Size(8, 3_650)
_EXTREMES = (Size(1, 5, points=10_000), Size(1, 4, interval=10))
_SIZES = (
    *(_SMALL, _LARGE, _YEAR, _DECADE),
    *(Size(8, 5, points=100), Size(8, 5, points=1_000)),
    *(Size(1, 416), Size(64, 6)),
    *_EXTREMES,
)


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure runs of all sizes in turn.

    Args:
        quick: use a few days of two models, once, as a smoke test.
    """
    large, longer = (_LARGE, (_YEAR, _DECADE)) if not quick else (Size(2, 2), (Size(2, 4),))
    extremes = _EXTREMES if not quick else (Size(1, 1, points=1_000), Size(1, 1, interval=60))
    sizes = _SIZES if not quick else (large, *longer, *extremes)
    with DagsterService({}) as service:
        runs: dict[Size, list[RangeRun]] = {size: [] for size in sizes}
        for _ in range(1 if quick else _TIMES):
            for size, taken in runs.items():
                taken.append(_run(size))
                service.clear()
    for size, taken in runs.items():
        yield Row(f"a run of {size}, 1,000 windows", "s", _costs(size, taken))
        yield Row(
            f"a run of {size}, peak memory",
            "MiB",
            _memories(taken),
            limit=_MEMORY if size in (*longer, *extremes) else None,
        )
    for size in longer:
        yield Row(
            f"1,000 windows of {size.windows:,}",
            "s",
            _costs(size, runs[size]),
            f"1,000 windows of {large.windows:,}",
            _costs(large, runs[large]),
            _LINEAR,
        )
        yield Row(
            f"peak memory of {size.windows:,} windows",
            "MiB",
            _memories(runs[size]),
            f"peak memory of {large.windows:,} windows",
            _memories(runs[large]),
            _SAME_MEMORY if size == longer[0] else None,
        )


def _run(size: Size) -> RangeRun:
    # The last day is yesterday, so that all windows have ended.
    start = datetime.now(UTC).date() - timedelta(days=size.days)
    names = [f"model-{number}" for number in range(size.models)]
    return range_run(
        names,
        start,
        start + timedelta(days=size.days - 1),
        {
            "LLM_MODELS_STR": ",".join(names),
            "NUM_DATA_POINTS": str(size.points),
            "SIMULATION_INTERVAL": str(size.interval),
            "SIMULATION_START": f"{start.isoformat()}T00:00:00Z",
        },
    )


def _costs(size: Size, runs: list[RangeRun]) -> tuple[float, ...]:
    return tuple(run.seconds / size.windows * 1_000 for run in runs)


def _memories(runs: list[RangeRun]) -> tuple[float, ...]:
    return tuple(run.memory for run in runs)
