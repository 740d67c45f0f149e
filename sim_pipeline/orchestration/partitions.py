"""Partitions: one of each model and UTC day. Keys, ranges, and the windows they stand for."""

from collections.abc import Mapping, Sequence
from datetime import date

import dagster as dg

from sim_pipeline.dagster_instance.names import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
)
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
