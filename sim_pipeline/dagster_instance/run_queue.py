"""The run coordinator of dagster.yaml: Dagster's run queue, with slots reserved for the schedule.

Dagster limits concurrent runs by tag. Backfill runs share a tag, but manual runs and runs of the
other jobs do not, so this coordinator adds one when they enter the queue. dagster.yaml limits both
tags. Together the limits leave slots that only runs of the schedule can take.
"""

from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext
from dagster._core.storage.dagster_run import DagsterRun
from dagster._core.storage.tags import BACKFILL_ID_TAG

from sim_pipeline.dagster_instance.run_tags import QUEUE_TAG, WINDOWS_TAG


class FeedFirstRunCoordinator(QueuedRunCoordinator):
    """Queues runs. Takes the same configuration as Dagster's `QueuedRunCoordinator`."""

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        """Queue a run. Add a tag if it belongs neither to the schedule nor to a backfill."""
        run = context.dagster_run
        if not {WINDOWS_TAG, BACKFILL_ID_TAG} & run.tags.keys():
            self._instance.add_run_tags(run.run_id, {QUEUE_TAG: "other"})
        return super().submit_run(context)
