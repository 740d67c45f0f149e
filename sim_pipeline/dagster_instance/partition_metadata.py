"""Metadata of each partition's own, on the materializations of a run over many."""

from collections.abc import Mapping
from datetime import date

import dagster as dg
from dagster._core.execution.context.metadata_logging import (
    AssetMetadataHandle,
    OutputMetadataAccumulator,
)
from dagster._core.execution.context.system import StepExecutionContext


def add_partition_metadata(
    step: StepExecutionContext,
    asset_key: dg.AssetKey,
    metadata: Mapping[tuple[date, str], Mapping[str, float]],
) -> None:
    """Have Dagster put metadata on the materialization of each partition of a step's asset.

    Args:
        step: the step, which has not materialized the asset yet.
        asset_key: the asset.
        metadata: by UTC day and model.
    """
    # `add_asset_metadata` does it for one partition, and for each of them lists all of the run's
    # anew and copies what it was given before: a time that goes with the square of the partitions.
    step._metadata_accumulator = OutputMetadataAccumulator(  # noqa: SLF001
        per_output_metadata={
            **step._metadata_accumulator.per_output_metadata,  # noqa: SLF001
            **{
                AssetMetadataHandle(
                    asset_key=asset_key, partition_key=f"{day.isoformat()}|{llm_name}"
                ): entries
                for (day, llm_name), entries in metadata.items()
            },
        }
    )
