"""The way of frames into PostgreSQL and out again."""

from typing import TYPE_CHECKING

import dagster as dg

from sim_pipeline.dagster_instance.partition_metadata import add_partition_metadata
from sim_pipeline.feed.progress import Progress
from sim_pipeline.feed.selection import days_and_models
from sim_pipeline.feed.simulate import MetricFrames
from sim_pipeline.metrics import METRICS
from sim_pipeline.orchestration.resources import NO_CONFIG, ResultsDatabase
from sim_pipeline.orchestration.retries import retry_transient_errors
from sim_pipeline.store.batches import read_frame
from sim_pipeline.store.error_translation import translate_db_errors
from sim_pipeline.store.writer import SliceWriter

if TYPE_CHECKING:
    import pandas as pd


class FramesIOManager(dg.IOManager):
    """Writes the slices of `MetricFrames`; loads the rows of a run's partitions."""

    def __init__(self, results: ResultsDatabase) -> None:
        self._results = results

    def handle_output(self, context: dg.OutputContext, obj: MetricFrames) -> None:
        """Store slice by slice, each in its own transaction; a run that is killed keeps those."""
        postgres, tally = self._results.postgres, obj.tally
        progress = Progress("Stored", "rows", obj.windows)
        with (
            # What obj looks up in the database while it is iterated is in this as well.
            retry_transient_errors(postgres, context.step_context.previous_attempt_count),
            SliceWriter(postgres) as writer,
        ):
            for part in obj:
                writer.write(part, force=obj.force)
                progress.report(tally.simulated + tally.kept, len(METRICS) * tally.simulated)
        progress.end(tally.simulated + tally.kept, len(METRICS) * tally.simulated)
        add_partition_metadata(context.step_context, context.asset_key, obj.partition_metadata())

    def load_input(self, context: dg.InputContext) -> "pd.DataFrame":
        """Return the stored rows of the partitions: llm_name, metric, values, timestamp."""
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
    description="Stores metric_frames in the results database and loads them from there",
)
def frames_io_manager(context: dg.InitResourceContext) -> FramesIOManager:
    """Return the I/O manager for the database that the run has."""
    return FramesIOManager(context.resources.results)
