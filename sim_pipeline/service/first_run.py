"""The run that a start of the service launches by itself, ahead of the schedule's next tick."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sim_pipeline.cadence import Cadence
from sim_pipeline.config import Settings
from sim_pipeline.jobs import JOB_NAME
from sim_pipeline.resources import results_database
from sim_pipeline.schedules import missing_windows, run_request
from sim_pipeline.store.ledger import latest


def first_run_command(settings: Settings, workspace: Sequence[str]) -> list[str] | None:
    """Return the command that launches the run, or None if there is nothing to do.

    On an empty database it simulates the latest window of each model that has ended; later it
    picks up where the feed was left, at most CATCH_UP_HOURS back. Older gaps are the schedule's.

    Args:
        settings: as validated.
        workspace: the options that tell `dagster` where the code location is.
    """
    cadence = Cadence(settings.simulation_interval, settings.simulation_start)
    engine = results_database(settings).engine
    now = datetime.now(UTC)
    with engine.connect() as connection:
        last = latest(connection, settings.llm_models)
    since = now
    if last is not None:
        left_off = last + timedelta(seconds=cadence.interval)
        since = max(left_off, now - timedelta(hours=settings.catch_up_hours))
    missing = missing_windows(engine, cadence, settings.llm_models, since=since, now=now)
    if missing is None:
        return None
    request = run_request(missing.span, cadence)
    return [
        *("dagster", "job", "launch", *workspace, "--job", JOB_NAME),
        *("--tags", json.dumps(request.tags)),
        *("--config-json", json.dumps(request.run_config)),
    ]
