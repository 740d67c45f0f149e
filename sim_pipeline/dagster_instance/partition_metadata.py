"""Separate metadata for each partition that a run over many partitions materializes."""

from collections.abc import Mapping
from datetime import date

import dagster as dg
from dagster._core.execution.context.metadata_logging import (
    AssetMetadataHandle,
    OutputMetadataAccumulator,
)
from dagster._core.execution.context.system import StepExecutionContext

from sim_pipeline.partition_keys import partition_key


def add_partition_metadata(
    step: StepExecutionContext,
    asset_key: dg.AssetKey,
    metadata: Mapping[tuple[date, str], Mapping[str, float | str]],
) -> None:
    """Attach metadata to the materialization of each partition of a step's asset.

    Args:
        step: a step that has not materialized the asset yet.
        asset_key: the asset.
        metadata: the entries by UTC day and model; text is Markdown.
    """
    # Dagster's `add_asset_metadata` takes one partition. Each call lists all partitions of the run
    # and copies the earlier entries, so the total time is quadratic in the number of partitions.
    step._metadata_accumulator = OutputMetadataAccumulator(  # noqa: SLF001
        per_output_metadata={
            **step._metadata_accumulator.per_output_metadata,  # noqa: SLF001
            **{
                AssetMetadataHandle(
                    asset_key=asset_key, partition_key=partition_key(day, llm_name)
                ): {
                    name: dg.MetadataValue.md(value) if isinstance(value, str) else value
                    for name, value in entries.items()
                }
                for (day, llm_name), entries in metadata.items()
            },
        }
    )
