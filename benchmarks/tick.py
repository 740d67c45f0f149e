"""Benchmark: a scheduled run of nine models, and an empty job with the same number of steps.

Both are launched as a tick launches them. Dagster's records give the time from a run's creation to
its end: queue, launch, process start, imports, steps.
"""

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, timedelta

from benchmarks.dagster_service import PIPELINE, DagsterService
from benchmarks.figures import Row
from sim_pipeline.orchestration.jobs.simulation import SIMULATION_JOB, run_request
from sim_pipeline.store.ledger import Span
from sim_pipeline.windows import Cadence

_LOCATION = "empty"
_TIMES = 10
_SECONDS = 120.0


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure both runs in turn.

    Args:
        quick: measure twice, as a smoke test.
    """
    with DagsterService(PIPELINE | {_LOCATION: "benchmarks.empty_job"}) as service:
        pairs = []
        # The first pair is a warm-up and does not count.
        for window in range(1 + (2 if quick else _TIMES)):
            if window % 2:
                floor, ours = _empty_run(service), _our_run(service, window)
            else:
                ours, floor = _our_run(service, window), _empty_run(service)
            pairs.append((ours, floor))
        models = len(service.settings.llm_models)
    for index, what in enumerate(("created to end", "started to end")):
        yield Row(
            f"scheduled run of {models} models, {what}",
            "s",
            tuple(ours[index] for ours, _ in pairs[1:]),
            "an empty job",
            tuple(floor[index] for _, floor in pairs[1:]),
        )


def _our_run(service: DagsterService, window: int) -> tuple[float, float]:
    """Simulate one window of all models, a new window each time."""
    settings = service.settings
    since = settings.simulation_start + timedelta(seconds=window * settings.simulation_interval)
    until = since + timedelta(seconds=settings.simulation_interval)
    request = run_request(
        Span(settings.llm_models, since, until),
        Cadence(settings.simulation_interval, settings.simulation_start),
    )
    return _run(
        service,
        next(iter(PIPELINE)),
        SIMULATION_JOB,
        *("--tags", json.dumps(request.tags), "--config-json", json.dumps(request.run_config)),
    )


def _empty_run(service: DagsterService) -> tuple[float, float]:
    return _run(service, _LOCATION, "empty_job")


def _run(service: DagsterService, location: str, job: str, *options: str) -> tuple[float, float]:
    """Execute a run; return the seconds from its creation, and from its start, to its end.

    Raises:
        RuntimeError: the run was not launched, or failed.
    """
    run_id = str(uuid.uuid4())
    launched = service.children.run(
        "launch",
        *("dagster", "job", "launch", "--workspace", str(service.workspace)),
        *("--location", location, "--job", job, "--run-id", run_id, *options),
        timeout=_SECONDS,
    )
    if not launched:
        raise RuntimeError(f"{job} was not launched")
    service.await_condition(lambda: _finished(service, run_id), f"{job} did not finish", _SECONDS)
    record = service.instance.get_run_record_by_id(run_id)
    if record is None or not record.start_time or not record.end_time:
        raise RuntimeError(f"run {run_id} of {job} has no times")
    if not record.dagster_run.is_success:
        raise RuntimeError(f"run {run_id} of {job} did not succeed")
    created = record.create_timestamp.replace(tzinfo=UTC).timestamp()
    return record.end_time - created, record.end_time - record.start_time


def _finished(service: DagsterService, run_id: str) -> bool:
    run = service.instance.get_run_by_id(run_id)
    return run is not None and run.is_finished
