"""What a window costs, and what a run worker takes of the memory, by how much there is to do.

Each point is one run over a range of models and days, in a fresh process, with Dagster's storage,
the results database and the broker as in service (`benchmarks/range_run.py`). Two more points are
the extremes of the settings: many values in a window, and many windows in a day. Linux.
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
class Point:
    """How much there is to do.

    Attributes:
        models: how many.
        days: how many.
        points: values per metric and window.
        interval: length of a window in seconds.
    """

    models: int
    days: int
    points: int = 5
    interval: int = _HOUR

    @property
    def windows(self) -> int:
        """How many windows of a model."""
        return self.models * self.days * _DAY // self.interval

    def __str__(self) -> str:
        return (
            f"{self.windows:,} windows: {self.models} models, {self.days} days,"
            f" {self.points:,} points, every {self.interval:,} s"
        )


_FEW, _MANY, _YEAR = Point(8, 5), Point(8, 52), Point(8, 365)
_EXTREMES = (Point(1, 5, points=10_000), Point(1, 4, interval=10))
_POINTS = (
    *(_FEW, _MANY, _YEAR),
    *(Point(8, 5, points=100), Point(8, 5, points=1_000)),
    *(Point(1, 416), Point(64, 6)),
    *_EXTREMES,
)


def measure(*, quick: bool) -> Iterator[Row]:
    """Run every point, by turns.

    Args:
        quick: a few days of two models, once, to see that it works.
    """
    few, many, year = (Point(2, 1), Point(2, 2), Point(2, 4)) if quick else (_FEW, _MANY, _YEAR)
    extremes = (Point(1, 1, points=1_000), Point(1, 1, interval=60)) if quick else _EXTREMES
    points = (few, many, year, *extremes) if quick else _POINTS
    with DagsterService({}) as service:
        runs: dict[Point, list[RangeRun]] = {point: [] for point in points}
        for _ in range(1 if quick else _TIMES):
            for point, taken in runs.items():
                taken.append(_run(point))
                service.clear()
    for point, taken in runs.items():
        yield Row(f"a run of {point}, 1,000 windows", "s", _costs(point, taken))
        yield Row(
            f"a run of {point}, peak memory",
            "MiB",
            _memories(taken),
            limit=_MEMORY if point in extremes else None,
        )
    yield Row(
        f"1,000 windows of {year.windows:,}",
        "s",
        _costs(year, runs[year]),
        f"1,000 windows of {many.windows:,}",
        _costs(many, runs[many]),
        _LINEAR,
    )
    yield Row(
        f"peak memory of {year.windows:,} windows",
        "MiB",
        _memories(runs[year]),
        f"peak memory of {many.windows:,}",
        _memories(runs[many]),
        _SAME_MEMORY,
    )


def _run(point: Point) -> RangeRun:
    # The last of the days is yesterday: all windows have ended.
    start = datetime.now(UTC).date() - timedelta(days=point.days)
    names = [f"model-{number}" for number in range(point.models)]
    return range_run(
        names,
        start,
        start + timedelta(days=point.days - 1),
        {
            "LLM_MODELS_STR": ",".join(names),
            "NUM_DATA_POINTS": str(point.points),
            "SIMULATION_INTERVAL": str(point.interval),
            "SIMULATION_START": f"{start.isoformat()}T00:00:00Z",
        },
    )


def _costs(point: Point, runs: list[RangeRun]) -> tuple[float, ...]:
    return tuple(run.seconds / point.windows * 1_000 for run in runs)


def _memories(runs: list[RangeRun]) -> tuple[float, ...]:
    return tuple(run.memory for run in runs)
