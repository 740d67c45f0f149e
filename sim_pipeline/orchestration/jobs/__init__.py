"""The jobs, each with its schedule."""

import os
from typing import Final

import dagster as dg

from sim_pipeline.dagster_instance.names import IN_PROGRESS_RUN_STATUSES

DEFAULT_STATUS: Final = (
    dg.DefaultScheduleStatus.STOPPED
    if os.environ.get("DAGSTER_IS_DEV_CLI")
    else dg.DefaultScheduleStatus.RUNNING
)
"""Whether schedules run unless a user starts or stops them. `dagster dev` sets the variable: beside
a running service, its daemon would do the service's work a second time."""

UNFINISHED: Final = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    *IN_PROGRESS_RUN_STATUSES,
]
"""The statuses of runs that may still work."""
