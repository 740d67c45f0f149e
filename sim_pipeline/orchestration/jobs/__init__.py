"""The jobs, each with its schedule."""

import os
from typing import Final

import dagster as dg

DEFAULT_STATUS: Final = (
    dg.DefaultScheduleStatus.STOPPED
    if os.environ.get("DAGSTER_IS_DEV_CLI")
    else dg.DefaultScheduleStatus.RUNNING
)
"""Whether schedules run unless a user starts or stops them. `dagster dev` sets the variable: beside
a running service, its daemon would do the service's work a second time."""
