"""Names from Dagster's private modules that the other packages need.

If a new version of Dagster moves one of them, only this file changes.
"""

from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.errors import DagsterHomeNotSetError
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES
from dagster._core.storage.tags import (
    MAX_RETRIES_TAG,
    MAX_RUNTIME_SECONDS_TAG,
    PRIORITY_TAG,
)

__all__ = [
    "IN_PROGRESS_RUN_STATUSES",
    "MAX_RETRIES_TAG",
    "MAX_RUNTIME_SECONDS_TAG",
    "PRIORITY_TAG",
    "DagsterHomeNotSetError",
    "UnresolvedAssetJobDefinition",
]
