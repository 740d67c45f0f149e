"""Tags of runs: those that the pipeline sets, and those of Dagster that describe ranges.

Dagster is not imported here, so that `make backfill` need not load it.
"""

from collections.abc import Mapping, Sequence
from datetime import date

from sim_pipeline.partition_keys import partition_key, split_partition_key

WINDOWS_TAG = "sim_pipeline/windows"
"""On each run of the schedule: the ISO 8601 interval that contains its window starts."""
QUEUE_TAG = "sim_pipeline/queue"
"""On each other run: the queue whose limit applies to it, one of the two below."""
BACKFILL_QUEUE = "backfill"
"""The queue of the runs of backfills, whoever launched them."""
OTHER_QUEUE = "other"
"""The queue of the runs that belong neither to the schedule nor to a backfill."""
REQUEST_TAG = "sim_pipeline/backfill"
"""On each run of `make backfill`: the name of its request."""

RANGE_START_TAG = "dagster/asset_partition_range_start"
"""Dagster's tag for the first partition of a run."""
RANGE_END_TAG = "dagster/asset_partition_range_end"
"""Dagster's tag for the last partition of a run."""
WILL_RETRY_TAG = "dagster/will_retry"
"""Dagster's tag on a failed run: whether it launches the run again."""


def range_tags(llm_names: Sequence[str], first_day: date, last_day: date) -> dict[str, str]:
    """Return the tags of a run over a range of partitions: models by days.

    Args:
        llm_names: the models, in the order of the partitions. The range goes from the first to the
            last of them and includes every model between the two.
        first_day: the first day of the range.
        last_day: the last day of the range, included.
    """
    return {
        RANGE_START_TAG: partition_key(first_day, llm_names[0]),
        RANGE_END_TAG: partition_key(last_day, llm_names[-1]),
    }


def models_in_range(tags: Mapping[str, str], llm_names: Sequence[str]) -> tuple[str, ...]:
    """Return the models of the range that `range_tags` describe; none if a model is unknown.

    Args:
        tags: of a run.
        llm_names: all models, in the order of the partitions.
    """
    first, last = (split_partition_key(tags[tag])[1] for tag in (RANGE_START_TAG, RANGE_END_TAG))
    if first not in llm_names or last not in llm_names:
        return ()
    return tuple(llm_names[llm_names.index(first) : llm_names.index(last) + 1])
