"""The run coordinator of dagster.yaml: Dagster's run queue, with slots reserved for the schedule.

Dagster limits concurrent runs by tag. Runs of backfills, manual runs and runs of the other jobs
have no tag in common, so this coordinator adds one when they enter the queue. dagster.yaml limits
both of its values. Together the limits leave slots that only runs of the schedule can take.
"""

from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext
from dagster._core.storage.dagster_run import DagsterRun
from dagster._core.storage.tags import BACKFILL_ID_TAG, PRIORITY_TAG

from sim_pipeline.dagster_instance.run_tags import (
    BACKFILL_QUEUE,
    OTHER_QUEUE,
    QUEUE_TAG,
    REQUEST_TAG,
    WINDOWS_TAG,
)

# Below the default, 0, and below the schedule's.
_BACKFILL_PRIORITY = "-1"


class FeedFirstRunCoordinator(QueuedRunCoordinator):
    """Queues runs. Takes the same configuration as Dagster's `QueuedRunCoordinator`."""

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        """Queue a run. Tag it with its queue, unless it belongs to the schedule.

        A run of a backfill also gets its priority, whatever priority its backfill has.
        """
        run = context.dagster_run
        if {REQUEST_TAG, BACKFILL_ID_TAG} & run.tags.keys():
            tags = {QUEUE_TAG: BACKFILL_QUEUE, PRIORITY_TAG: _BACKFILL_PRIORITY}
            self._instance.add_run_tags(run.run_id, tags)
        elif WINDOWS_TAG not in run.tags:
            self._instance.add_run_tags(run.run_id, {QUEUE_TAG: OTHER_QUEUE})
        return super().submit_run(context)
