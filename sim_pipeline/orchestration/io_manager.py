"""The I/O manager of `metric_frames`: stores batches of windows, loads partitions as DataFrames."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg

from sim_pipeline.feed.selection import days_and_models
from sim_pipeline.orchestration.resources import NO_CONFIG, ResultsDatabase
from sim_pipeline.orchestration.retries import retry_transient_errors
from sim_pipeline.store.batches import WindowBatch, read_frame
from sim_pipeline.store.errors import translate_db_errors
from sim_pipeline.store.writer import BatchWriter

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class FrameBatches:
    """Batches of windows to store, produced one at a time: memory stays bounded for any range.

    Attributes:
        batches: iterated once; each batch is stored before the next one is requested.
        force: overwrite rows that are already stored under the same message_id.
    """

    batches: Iterable[WindowBatch]
    force: bool = False


class FramesIOManager(dg.IOManager):
    """Stores `FrameBatches` in the results database; loads partitions from it as a DataFrame."""

    def __init__(self, results: ResultsDatabase) -> None:
        self._results = results

    def handle_output(self, context: dg.OutputContext, obj: FrameBatches) -> None:
        """Store each batch in a transaction of its own. A run that is killed keeps those stored."""
        postgres = self._results.postgres
        with (
            # Covers the queries of `obj.batches` too.
            retry_transient_errors(postgres, context.step_context.previous_attempt_count),
            BatchWriter(postgres) as writer,
        ):
            for batch in obj.batches:
                writer.write(batch, force=obj.force)

    def load_input(self, context: dg.InputContext) -> "pd.DataFrame":
        """Return the stored rows of the requested partitions.

        Returns:
            Columns llm_name, metric, values (list of float) and timestamp (UTC, the window's
            start); four rows per window, ordered by model, window start and metric.
        """
        days, llm_names = days_and_models(context.asset_partition_keys)
        with translate_db_errors(self._results.postgres):
            return read_frame(
                self._results.postgres.engine,
                llm_names=llm_names,
                first_day=days[0].isoformat(),
                last_day=days[-1].isoformat(),
            )


@dg.io_manager(
    config_schema=NO_CONFIG,
    required_resource_keys={"results"},
    description="Stores metric_frames in the results database; loads partitions as DataFrames",
)
def frames_io_manager(context: dg.InitResourceContext) -> FramesIOManager:
    """Return the I/O manager of the run's results database."""
    return FramesIOManager(context.resources.results)
