"""The runs of a backfill: their states and retries, and the ranges of partitions they cover.

Nothing here reads a clock, queries a database or calls Dagster.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from math import ceil
from typing import Any, Final, Self

from sim_pipeline.dagster_instance.run_tags import (
    RANGE_END_TAG,
    RANGE_START_TAG,
    WILL_RETRY_TAG,
    models_in_range,
)
from sim_pipeline.partition_keys import split_partition_key

# What a run costs in one process, in seconds (see benchmarks/README.md): for each partition,
# Dagster's events; for each window, its rows and its message; for each value of a metric, drawing
# it and writing it.
_PARTITION_SECONDS = 4e-3
_WINDOW_SECONDS = 2.5e-4
_VALUE_SECONDS = 1.25e-5
# A run takes two to three seconds to start. With less work than this, another run does not pay.
_SECONDS_PER_RUN = 5.0
# A run's process needs 7 KB for each partition, beside its 270 MiB.
_PARTITIONS_PER_RUN = 10_000
# Dagster queues a run right after it creates it, and launches a retry within a minute of the
# failure. After this time it will not do so any more: its process died in between.
_LAUNCH_TIMEOUT: Final = timedelta(minutes=3)


@dataclass(frozen=True)
class Run:
    """A run in Dagster.

    Attributes:
        run_id: its id.
        root: the id of the run whose retry it is, directly or not; its own id otherwise.
        parent: the id of the run that it repeats, or None.
        status: a value of `dagster.DagsterRunStatus`.
        created: the time of its creation, UTC.
        updated: the time of its last change of status, UTC.
        tags: its tags.
    """

    run_id: str
    root: str
    parent: str | None
    status: str
    created: datetime
    updated: datetime
    tags: dict[str, str]

    @classmethod
    def from_graphql(cls, answer: dict[str, Any]) -> Self:
        """Return the run of a GraphQL answer."""
        return cls(
            answer["runId"],
            answer["rootRunId"] or answer["runId"],
            answer["parentRunId"],
            answer["status"],
            datetime.fromtimestamp(answer["creationTime"], UTC),
            datetime.fromtimestamp(answer["updateTime"], UTC),
            {tag["key"]: tag["value"] for tag in answer["tags"]},
        )

    @property
    def can_be_terminated(self) -> bool:
        """Whether it is queued or in progress and was not told to end."""
        return self.status in ("QUEUED", "STARTING", "STARTED")

    def awaits_retry(self, now: datetime) -> bool:
        """Return whether it died and Dagster is about to retry it."""
        return (
            self.status == "FAILURE"
            and self.tags.get(WILL_RETRY_TAG) == "true"
            and now < self.updated + _LAUNCH_TIMEOUT
        )

    def is_unfinished(self, now: datetime) -> bool:
        """Return whether it, or a retry of it that Dagster is about to launch, may still work."""
        return (
            self.can_be_terminated
            or self.status == "CANCELING"
            or (self.status == "NOT_STARTED" and now < self.created + _LAUNCH_TIMEOUT)
            or self.awaits_retry(now)
        )


def not_retried(runs: Iterable[Run]) -> list[Run]:
    """Return the runs without those that another one repeats."""
    runs = list(runs)
    repeated = {run.parent for run in runs}
    return [run for run in runs if run.run_id not in repeated]


def covered(runs: Iterable[Run], llm_names: Sequence[str]) -> set[tuple[str, date]]:
    """Return the models and days of the partitions that runs cover.

    Args:
        runs: runs over ranges of partitions.
        llm_names: all models, in the order of the partitions.
    """
    return {
        (llm_name, date.fromordinal(day))
        for run in runs
        if run.tags.keys() >= {RANGE_START_TAG, RANGE_END_TAG}
        for llm_name in models_in_range(run.tags, llm_names)
        for day in range(_day(run, RANGE_START_TAG), _day(run, RANGE_END_TAG) + 1)
    }


def _day(run: Run, tag: str) -> int:
    day, _ = split_partition_key(run.tags[tag])
    return date.fromisoformat(day).toordinal()


@dataclass(frozen=True)
class Rectangle:
    """The partitions of one run: neighbouring models, and consecutive days.

    Attributes:
        llm_names: the models, in the order of the partitions.
        first_day: the first day.
        last_day: the last day, included.
    """

    llm_names: tuple[str, ...]
    first_day: date
    last_day: date


def worthwhile_runs(partitions: int, windows: int, points: int, limit: int) -> int:
    """Return the number of runs to split work into, more than `limit` for very many partitions.

    Args:
        partitions: the number of partitions.
        windows: the number of windows in them, over all models.
        points: values per metric and window.
        limit: how many runs can be in progress at a time.
    """
    seconds = partitions * _PARTITION_SECONDS
    seconds += windows * (_WINDOW_SECONDS + points * _VALUE_SECONDS)
    parallel = min(limit, round(seconds / _SECONDS_PER_RUN))
    return max(1, parallel, ceil(partitions / _PARTITIONS_PER_RUN))


def split(
    partitions: Collection[tuple[str, date]], llm_names: Sequence[str], runs: int
) -> list[Rectangle]:
    """Split partitions into rectangles of about equal size, one for each run.

    Neighbouring models stay together, so that a day of theirs is in one rectangle. Models that are
    not neighbours have rectangles of their own, also beyond the number of runs. A rectangle may
    contain other partitions of its models, between its days and where only some of its models
    lack a day.

    Args:
        partitions: models and days, not empty.
        llm_names: all models, in the order of the partitions.
        runs: the number of rectangles to aim at.
    """
    groups = [
        (models, sorted({day for llm_name, day in partitions if llm_name in models}))
        for models in _neighbours({llm_name for llm_name, _ in partitions}, llm_names)
    ]
    size = ceil(sum(len(models) * len(days) for models, days in groups) / runs)
    rectangles = []
    for models, days in groups:
        parts = min(len(days), max(1, round(len(models) * len(days) / size)))
        cuts = [part * len(days) // parts for part in range(parts + 1)]
        rectangles += [
            Rectangle(models, days[first], days[stop - 1]) for first, stop in pairwise(cuts)
        ]
    return rectangles


def _neighbours(models: Collection[str], llm_names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return groups of models that have no other model between them."""
    groups: list[list[str]] = [[]]
    for llm_name in llm_names:
        if llm_name in models:
            groups[-1].append(llm_name)
        elif groups[-1]:
            groups.append([])
    return [tuple(group) for group in groups if group]
