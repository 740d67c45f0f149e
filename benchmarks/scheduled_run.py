"""A scheduled run of nine models beside an empty job of as many steps, through the daemon.

Both are launched as a tick launches them and timed by Dagster's own records, from the moment a
run is created to its end: queue, launch, process start, imports, steps. Run it with
`python -m benchmarks.scheduled_run`; it starts servers of its own and takes about three minutes.
"""

import argparse
import json
import os
import secrets
import statistics
import tempfile
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, timedelta
from functools import partial
from pathlib import Path

import dagster as dg
import yaml

from benchmarks.machine import header
from sim_pipeline.cadence import Cadence
from sim_pipeline.config import Settings, read_settings
from sim_pipeline.jobs import JOB_NAME
from sim_pipeline.resources import results_database
from sim_pipeline.schedules import run_request
from sim_pipeline.service.instance import prepare_instance
from sim_pipeline.service.local import local_postgres, local_rabbitmq
from sim_pipeline.service.ports import free_port, listens
from sim_pipeline.service.programs import Programs, StopRequest
from sim_pipeline.service.supervisor import PROJECT, service_environment
from sim_pipeline.store.ledger import Span
from sim_pipeline.store.migrate import upgrade

_SECONDS = 120.0


def main() -> None:
    """Time the pairs and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10, help="counted pairs of runs")
    pairs = parser.parse_args().pairs
    with (
        tempfile.TemporaryDirectory(prefix="sim_pipeline-benchmark-") as name,
        ExitStack() as stack,
    ):
        directory = Path(name)
        settings = _settings(directory)
        environment = service_environment(settings, directory) | {"PYTHONPATH": str(PROJECT)}
        os.environ.update(environment)
        stack.enter_context(local_postgres(settings, directory))
        stack.enter_context(local_rabbitmq(settings, directory))
        upgrade(results_database(settings))
        prepare_instance(directory / "dagster", PROJECT / "dagster.yaml")
        programs = stack.enter_context(Programs(directory, environment, StopRequest()))
        workspace = _start(programs, directory)
        instance = stack.enter_context(dg.DagsterInstance.get())

        def launch(location: str, job: str, *options: str) -> tuple[float, float]:
            run_id = str(uuid.uuid4())
            launched = programs.run(
                "launch",
                *("dagster", "job", "launch", "--workspace", str(workspace)),
                *("--location", location, "--job", job, "--run-id", run_id, *options),
                seconds=_SECONDS,
            )
            if not launched:
                raise RuntimeError(f"{job} was not launched")
            programs.await_condition(lambda: _finished(instance, run_id), job, _SECONDS)
            return _times(instance, run_id)

        def ours(window: int) -> tuple[float, float]:
            request = run_request(_span(settings, window), _cadence(settings))
            return launch(
                "sim_pipeline",
                JOB_NAME,
                *("--tags", json.dumps(request.tags)),
                *("--config-json", json.dumps(request.run_config)),
            )

        def empty(_: int) -> tuple[float, float]:
            return launch("empty", "empty_job")

        _report(_pairs(ours, empty, pairs), settings)


def _settings(directory: Path) -> Settings:
    return read_settings(
        {
            "local_services": True,
            "postgres_port": free_port(),
            "postgres_password": secrets.token_urlsafe(),
            "rabbitmq_port": free_port(),
            "rabbitmq_password": secrets.token_urlsafe(),
            "log_file": directory / "benchmark.log",
        }
    )


def _cadence(settings: Settings) -> Cadence:
    return Cadence(settings.simulation_interval, settings.simulation_start)


def _span(settings: Settings, window: int) -> Span:
    """Return all models over one window, another one for each pair."""
    since = settings.simulation_start + timedelta(seconds=window * settings.simulation_interval)
    return Span(settings.llm_models, since, since + timedelta(seconds=settings.simulation_interval))


def _start(programs: Programs, directory: Path) -> Path:
    """Start a code server for each of the two, and the daemon; return the workspace file."""
    servers = {"sim_pipeline": "sim_pipeline.definitions", "empty": "benchmarks.empty_job"}
    entries = []
    for location, module in servers.items():
        port = free_port()
        programs.start(
            location,
            *("dagster", "api", "grpc", "--module-name", module, "--port", str(port)),
            *("--host", "127.0.0.1", "--location-name", location, "--log-level", "warning"),
        )
        programs.await_condition(partial(listens, "127.0.0.1", port), location, _SECONDS)
        entries.append(
            {"grpc_server": {"host": "127.0.0.1", "port": port, "location_name": location}}
        )
    workspace = directory / "workspace.yaml"
    workspace.write_text(yaml.safe_dump({"load_from": entries}), encoding="utf-8")
    programs.start("daemon", "dagster._daemon", "run", "--workspace", str(workspace))
    return workspace


def _finished(instance: dg.DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id)
    return run is not None and run.is_finished


def _times(instance: dg.DagsterInstance, run_id: str) -> tuple[float, float]:
    """Return seconds from creation to end, and from the run's own start to its end."""
    record = instance.get_run_record_by_id(run_id)
    if record is None or not record.start_time or not record.end_time:
        raise RuntimeError(f"run {run_id} has no times")
    if not record.dagster_run.is_success:
        raise RuntimeError(f"run {run_id} did not succeed")
    created = record.create_timestamp.replace(tzinfo=UTC).timestamp()
    return record.end_time - created, record.end_time - record.start_time


def _pairs(
    ours: Callable[[int], tuple[float, float]],
    empty: Callable[[int], tuple[float, float]],
    count: int,
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Time them in turn, either one first; the first pair warms up and does not count."""
    results = []
    for window in range(count + 1):
        if window % 2:
            floor, run = empty(window), ours(window)
        else:
            run, floor = ours(window), empty(window)
        results.append((run, floor))
    return results[1:]


def _report(
    results: list[tuple[tuple[float, float], tuple[float, float]]], settings: Settings
) -> None:
    print(header())
    print(f"scheduled run of {len(settings.llm_models)} models, {len(results)} pairs")
    print(f"{'':32}{'min':>8}{'median':>8}{'max':>8}")
    for what, index in (("created to end", 0), ("steps and set-up alone", 1)):
        run = [pair[0][index] for pair in results]
        floor = [pair[1][index] for pair in results]
        ratio = [a / b for a, b in zip(run, floor, strict=True)]
        for name, values in (("this, s", run), ("empty job, s", floor), ("ratio", ratio)):
            print(
                f"{what + ', ' + name:32}"
                f"{min(values):8.2f}{statistics.median(values):8.2f}{max(values):8.2f}"
            )


if __name__ == "__main__":
    main()
