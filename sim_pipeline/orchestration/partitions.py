"""The partitions of the feed: one per model and UTC day. Keys and ranges of them."""

from collections.abc import Mapping, Sequence
from datetime import date

import dagster as dg

from sim_pipeline.dagster_instance.names import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
)
from sim_pipeline.partition_keys import partition_key, split_partition_key
from sim_pipeline.windows import Cadence

# Dagster sorts dimensions by name, so a key reads "2026-11-24|GPT-4o".
DAY, MODEL = "day", "llm"


def build_partitions(llm_names: Sequence[str], cadence: Cadence) -> dg.MultiPartitionsDefinition:
    """Return the partitions: models by days, from the first window's day to today, included."""
    first_day = cadence.day_of(cadence.first_window)
    return dg.MultiPartitionsDefinition(
        {
            DAY: dg.DailyPartitionsDefinition(
                start_date=first_day.isoformat(), timezone="UTC", end_offset=1
            ),
            MODEL: dg.StaticPartitionsDefinition(list(llm_names)),
        }
    )


def range_tags(llm_names: Sequence[str], first_day: date, last_day: date) -> dict[str, str]:
    """Return the tags of a run over a range of partitions: models by days.

    Args:
        llm_names: the models, in the order of the partitions. The range goes from the first to the
            last of them and includes every model between the two.
        first_day: the first day of the range.
        last_day: the last day of the range, included.
    """
    return {
        ASSET_PARTITION_RANGE_START_TAG: partition_key(first_day, llm_names[0]),
        ASSET_PARTITION_RANGE_END_TAG: partition_key(last_day, llm_names[-1]),
    }


def models_in_range(tags: Mapping[str, str], llm_names: Sequence[str]) -> tuple[str, ...]:
    """Return the models of the range that `range_tags` describe; none if a model is unknown.

    Args:
        tags: of a run.
        llm_names: all models, in the order of the partitions.
    """
    first, last = (
        split_partition_key(tags[tag])[1]
        for tag in (ASSET_PARTITION_RANGE_START_TAG, ASSET_PARTITION_RANGE_END_TAG)
    )
    if first not in llm_names or last not in llm_names:
        return ()
    return tuple(llm_names[llm_names.index(first) : llm_names.index(last) + 1])
