"""The environment of processes that use the instance of the service on this machine.

Dagster is not imported here, so that commands such as `exec -- psql` need not load it.
"""

from pathlib import Path

# The pipeline relies on these features, which Dagster calls beta, and every process would warn
# about them. All other warnings are shown.
_KNOWN_WARNINGS = ",".join(
    f"ignore:{beginning}"
    for beginning in (
        "Handling yaml-defined logging configuration",
        "Parameter `backfill_policy` of function `asset`",
        "Function `with_source_code_references`",
        "Class `LocalFileCodeReference`",
        "Class `CodeReferencesMetadataValue`",
        # A forked run worker prepares the module of `python -m` again, which is loaded already.
        "'sim_pipeline.dagster_instance.code_server' found in sys.modules",
    )
)
# Run events are written in batches of this size, because Dagster's storage connects for each write.
_EVENT_BATCH_SIZE = 1000


def dagster_home(directory: Path) -> Path:
    """Return the service's DAGSTER_HOME.

    Args:
        directory: the service's data directory.
    """
    return directory / "dagster"


def instance_environment(directory: Path) -> dict[str, str]:
    """Return the variables with which Dagster uses the service's instance.

    Args:
        directory: the service's data directory.
    """
    return {
        "DAGSTER_HOME": str(dagster_home(directory)),
        "DAGSTER_EVENT_BATCH_SIZE": str(_EVENT_BATCH_SIZE),
        "PYTHONWARNINGS": _KNOWN_WARNINGS,
    }
