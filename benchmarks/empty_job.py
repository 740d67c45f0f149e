"""A code location with an empty job of three steps in one process: the floor of a run's time."""

import dagster as dg


@dg.op
def first() -> int:
    """Take the place of `metric_frames`."""
    return 0


@dg.op
def second(before: int) -> int:
    """Take the place of the checks."""
    return before


@dg.op
def third(before: int) -> int:
    """Take the place of `benchmark_feed`."""
    return before


@dg.job(executor_def=dg.in_process_executor)
def empty_job() -> None:
    """Run the three steps in order."""
    third(second(first()))


defs = dg.Definitions(jobs=[empty_job])
