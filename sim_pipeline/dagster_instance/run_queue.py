"""Dagster's run queue, which keeps slots free for the feed: for `run_coordinator` in dagster.yaml.

Dagster limits runs by their tags, and a run without a tag has no limit but that of all runs. Runs
of a backfill have a tag; runs launched by hand, and those of the other jobs, have none in common.
So this coordinator gives them one as they enter the queue. dagster.yaml limits both kinds, and the
two limits together leave slots that only runs of the schedule can take.
"""

from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext
from dagster._core.storage.dagster_run import DagsterRun
from dagster._core.storage.tags import BACKFILL_ID_TAG

from sim_pipeline.dagster_instance.run_tags import QUEUE_TAG, WINDOWS_TAG


class FeedFirstRunCoordinator(QueuedRunCoordinator):
    """Queues runs; configured as Dagster's `QueuedRunCoordinator` is."""

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        """Queue a run, with a tag if it is neither the schedule's nor a backfill's."""
        run = context.dagster_run
        if not {WINDOWS_TAG, BACKFILL_ID_TAG} & run.tags.keys():
            self._instance.add_run_tags(run.run_id, {QUEUE_TAG: "other"})
        return super().submit_run(context)
