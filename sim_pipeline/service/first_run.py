"""The run that the first start of the service launches before the schedule's first tick."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from sim_pipeline.config import Settings
from sim_pipeline.connections import results_database
from sim_pipeline.orchestration.jobs.simulation import SIMULATION_JOB, missing_windows, run_request
from sim_pipeline.store.ledger import latest_window_start
from sim_pipeline.windows import Cadence


def first_run_command(settings: Settings, workspace: Sequence[str]) -> list[str] | None:
    """Return the command that launches the first run, or None if no first run is needed.

    The run simulates the latest ended window of each model. It is needed only while the results
    database is empty: at later starts the daemon catches up on the last missed tick, and that tick
    requests every missing window.

    Args:
        settings: validated settings.
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
