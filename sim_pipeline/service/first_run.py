"""The run that the very first start of the service launches, ahead of the schedule's first tick."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from sim_pipeline.config import Settings
from sim_pipeline.connections import results_database
from sim_pipeline.orchestration.jobs.simulation import SIMULATION_JOB
from sim_pipeline.orchestration.jobs.simulation_schedule import missing_windows, run_request
from sim_pipeline.store.ledger import latest_window_start
from sim_pipeline.windows import Cadence


def first_run_command(settings: Settings, workspace: Sequence[str]) -> list[str] | None:
    """Return the command that launches the run, or None if there is nothing to do.

    On an empty database it simulates the latest window of each model that has ended. Later starts
    need none: the daemon makes up for the last tick it missed, and that tick for all the others.

    Args:
        settings: as validated.
        workspace: the options that tell `dagster` where the code location is.
    """
    engine = results_database(settings).engine
    with engine.connect() as connection:
        if latest_window_start(connection, settings.llm_models) is not None:
            return None
    cadence = Cadence(settings.simulation_interval, settings.simulation_start)
    now = datetime.now(UTC)
    missing = missing_windows(engine, cadence, settings.llm_models, since=now, now=now)
    if missing is None:
        return None
    request = run_request(missing.span, cadence)
    return [
        *("dagster", "job", "launch", *workspace, "--job", SIMULATION_JOB),
        *("--tags", json.dumps(request.tags)),
        *("--config-json", json.dumps(request.run_config)),
    ]
