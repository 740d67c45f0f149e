"""The floor of a run: a job with as many steps as ours, in one process, that does nothing."""

import dagster as dg


@dg.op
def first() -> int:
    """Stand where `metric_frames` does."""
    return 0


@dg.op
def second(before: int) -> int:
    """Stand where the checks do."""
    return before


@dg.op
def third(before: int) -> int:
    """Stand where `benchmark_feed` does."""
    return before


@dg.job(executor_def=dg.in_process_executor)
def empty_job() -> None:
    """Run the three, one after the other."""
    third(second(first()))


defs = dg.Definitions(jobs=[empty_job])
