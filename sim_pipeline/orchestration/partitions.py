"""Partitions: one of each model and UTC day. Keys, ranges, and the windows they stand for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import dagster as dg
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
)

from sim_pipeline.store.ledger import Span
from sim_pipeline.windows import Cadence

# Dagster orders dimensions by name, so that a key reads "2026-11-24|GPT-4o".
DAY, MODEL = "day", "llm"


def build_partitions(llm_names: Sequence[str], cadence: Cadence) -> dg.MultiPartitionsDefinition:
    """Return model x day, from the first window's day to today, today included."""
    first_day = cadence.day_of(cadence.first_window)
    return dg.MultiPartitionsDefinition(
        {
            DAY: dg.DailyPartitionsDefinition(
                start_date=first_day.isoformat(), timezone="UTC", end_offset=1
            ),
            MODEL: dg.StaticPartitionsDefinition(list(llm_names)),
        }
    )


def _key(day: date, llm_name: str) -> dg.MultiPartitionKey:
    return dg.MultiPartitionKey({DAY: day.isoformat(), MODEL: llm_name})


def range_tags(llm_names: Sequence[str], first_day: date, last_day: date) -> dict[str, str]:
    """Return the tags that make a run one over a rectangle of partitions.

    Args:
        llm_names: the models, as the partitions list them; the range runs from the first to the
            last of these, whatever lies between included.
        first_day: the first day of the range.
        last_day: the last day of the range, included.
    """
    return {
        ASSET_PARTITION_RANGE_START_TAG: _key(first_day, llm_names[0]),
        ASSET_PARTITION_RANGE_END_TAG: _key(last_day, llm_names[-1]),
    }


def days_and_models(partition_keys: Sequence[str]) -> tuple[list[date], tuple[str, ...]]:
    """Return the days, ascending, and the models, as they come, of the keys of one run."""
    keys = [key.split("|", 1) for key in partition_keys]
    days = sorted({date.fromisoformat(day) for day, _ in keys})
    return days, tuple(dict.fromkeys(llm_name for _, llm_name in keys))


def models_in_range(tags: Mapping[str, str], llm_names: Sequence[str]) -> tuple[str, ...]:
    """Return the models of the rectangle that `range_tags` describe, none if one is unknown.

    Args:
        tags: of a run.
        llm_names: all models, as the partitions list them.
    """
    first, last = (
        tags[tag].split("|", 1)[1]
        for tag in (ASSET_PARTITION_RANGE_START_TAG, ASSET_PARTITION_RANGE_END_TAG)
    )
    if first not in llm_names or last not in llm_names:
        return ()
    return tuple(llm_names[llm_names.index(first) : llm_names.index(last) + 1])


@dataclass(frozen=True)
class Selection:
    """The windows that a run is for.

    Attributes:
        llm_names: the models.
        windows: the window numbers, the same for each model.
        span: the same in terms of labels.
    """

    llm_names: tuple[str, ...]
    windows: range
    span: Span


def select(
    partition_keys: Sequence[str],
    cadence: Cadence,
    *,
    began: datetime,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Selection:
    """Return the windows that partitions stand for.

    Args:
        partition_keys: of one run, thus a rectangle of days and models.
        cadence: the windows of the feed.
        began: when the run began; a window that ends later is left out.
        since: the first label to take; None for all.
        until: the first label no longer to take; None for all.
    """
    days, llm_names = days_and_models(partition_keys)
    start = datetime.combine(days[0], time(), UTC)
    stop = datetime.combine(days[-1], time(), UTC) + timedelta(days=1)
    windows = cadence.windows_between(
        max(start, since) if since else start, min(stop, until) if until else stop
    )
    ended = range(windows.start, max(windows.start, min(windows.stop, cadence.window_at(began))))
    return Selection(
        llm_names,
        ended,
        Span(llm_names, cadence.start_of(ended.start), cadence.start_of(ended.stop)),
    )
