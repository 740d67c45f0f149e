"""The whole service, started by `python -m sim_pipeline run`.

These tests check what is visible from outside: the databases, the queue, the UI's API, the console
and the list of processes.
"""

import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sim_pipeline.config import read_settings
from sim_pipeline.dagster_instance.run_tags import WINDOWS_TAG
from sim_pipeline.local_servers.data_directory import ServiceDirectory
from sim_pipeline.timestamps import format_timestamp
from sim_pipeline_tests.support.assertions import wait_until
from sim_pipeline_tests.support.queue_reader import drain
from sim_pipeline_tests.support.whole_service import Service, start_service, write_env_file

pytestmark = pytest.mark.timeout(400)

MODELS = ("GPT-4o", "Llama-3.1-8B")
INTERVAL = timedelta(seconds=10)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory whose `.env` gives a service its own servers on free ports."""
    write_env_file(
        tmp_path,
        {
            "LLM_MODELS_STR": ",".join(MODELS),
            "SIMULATION_INTERVAL": 3600,
            "SIMULATION_START": (datetime.now(UTC) - timedelta(minutes=2)).isoformat(),
        },
    )
    return tmp_path


@pytest.fixture
def start(
    directory: Path,
    clean_environment: None,  # noqa: ARG001 - for what it clears
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[], Service]]:
    # The environment overrides `.env`, here and in every process of the service.
    monkeypatch.setenv("SIMULATION_INTERVAL", str(INTERVAL.seconds))
    started: list[Service] = []

    def start() -> Service:
        service = start_service(directory)
        started.append(service)
        return service

    yield start
    for service in started:
        if service.process.poll() is None:
            service.interrupt()


def test_restarted_service_closes_its_gap(
    start: Callable[[], Service],
) -> None:
    service = start()
    service.read_until("Ready.")

    schedules = service.graphql(
        "{ schedulesOrError(repositorySelector: {repositoryName: "
        '"__repository__", repositoryLocationName: "sim_pipeline"}) '
        "{ ... on Schedules { results { name scheduleState { status } } } } }"
    )["schedulesOrError"]["results"]
    assert {one["name"]: one["scheduleState"]["status"] for one in schedules} == {
        "comparison_schedule": "RUNNING",
        "simulation_schedule": "RUNNING",
        "retention_schedule": "RUNNING",
    }

    assert (service.directory / ".local" / "report.html").exists()
    # The first run, its comparison, and the run of a tick for the windows that ended meanwhile.
    wait_until(lambda: len(finished(service)) >= 3, "three runs", seconds=150)
    assert {run["status"] for run in finished(service)} == {"SUCCESS"}
    assert_complete(service)
    last = latest_window_start(service)
    assert service.interrupt() == 0
    assert "Stopped" in service.lines[-1]
    assert service.processes() == []
    log = (service.directory / "logs" / "sim_pipeline.log").read_text()
    assert "Published" in log
    assert "a secret" not in log + "".join(service.lines)

    wait_until(
        lambda: datetime.now(UTC) > last + 5 * INTERVAL, "three windows to pass", seconds=150
    )
    service = start()
    service.read_until("Ready.")
    wait_until(
        lambda: latest_window_start(service) >= last + 3 * INTERVAL, "the gap to close", seconds=150
    )
    assert format_timestamp(last + INTERVAL) in {
        tag["value"].split("/")[0]
        for run in service.runs()
        for tag in run["tags"]
        if tag["key"] == WINDOWS_TAG
    }
    assert_complete(service)
    assert service.interrupt() == 0


def latest_window_start(service: Service) -> datetime:
    window_start: datetime = service.query('SELECT max("timestamp") FROM deliveries')[0][0]
    return window_start.astimezone(UTC)


def finished(service: Service) -> list[dict[str, Any]]:
    return [run for run in service.runs() if run["status"] in ("SUCCESS", "FAILURE", "CANCELED")]


def assert_complete(service: Service) -> None:
    """Check that each window between the first and the last has four rows and one message."""
    rows = service.query(
        'SELECT llm_name, "timestamp", count(*) FROM simulation_results GROUP BY 1, 2 ORDER BY 1, 2'
    )
    assert {row[2] for row in rows} == {4}
    assert {row[0] for row in rows} == set(MODELS)
    for model in MODELS:
        starts = [row[1] for row in rows if row[0] == model]
        assert [b - a for a, b in itertools.pairwise(starts)] == [INTERVAL] * (len(starts) - 1)
    messages = drain(service.settings)
    assert len({message.message_id for message in messages}) == len(messages)


@pytest.mark.usefixtures("clean_environment")
def test_invalid_settings_abort_the_start(directory: Path) -> None:
    with (directory / ".env").open("a") as file:
        file.write("\nNUM_DATA_POINTS=0\n")
    completed = subprocess.run(
        [sys.executable, "-m", "sim_pipeline", "run"],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 2
    assert completed.stderr == (
        "1 invalid setting:\n  NUM_DATA_POINTS='0': allowed is a whole number, 1 to 10000\n"
    )
    assert not (directory / ".local").exists()


def test_port_in_use_is_one_clear_line(start: Callable[[], Service], directory: Path) -> None:
    service_port = read_settings().ui_port
    with socket.create_server(("127.0.0.1", service_port)):
        service = start()
        assert service.wait() == 1
    (output,) = service.lines
    assert f"port {service_port} on 127.0.0.1 is in use" in output
    assert "UI_PORT" in output
    assert not (directory / ".local" / "postgres").exists()


def test_second_service_in_a_directory_is_refused(
    start: Callable[[], Service], directory: Path
) -> None:
    owned = ServiceDirectory("The service", directory / ".local" / "dagster")
    owned.acquire()
    with subprocess.Popen(
        ["sleep", "infinity"], env={**os.environ, "SIM_PIPELINE_SERVICE": str(directory / ".local")}
    ) as child_of_the_first:
        second = start()
        assert second.wait() == 1
        (output,) = second.lines
        assert f"{directory / '.local' / 'dagster'} is in use by process {os.getpid()}" in output
        assert child_of_the_first.poll() is None
        child_of_the_first.kill()
    owned.release()


@pytest.mark.usefixtures("clean_environment")
def test_interrupt_during_imports_is_silent(directory: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "sim_pipeline", "run"],
        cwd=directory,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        imported = itertools.takewhile(
            lambda line: "sim_pipeline.config" not in line, process.stderr
        )
        said = "".join(imported)
        process.send_signal(signal.SIGINT)
        said += process.stderr.read()
    assert process.returncode == -signal.SIGINT
    assert {line.split(":")[0] for line in said.splitlines()} == {"import time"}


def test_death_of_a_child_ends_the_service(
    start: Callable[[], Service],
) -> None:
    service = start()
    service.read_until("Ready.")
    (webserver,) = [
        p for p in service.processes() if "sim_pipeline.dagster_instance.webserver" in p.cmdline()
    ]
    webserver.kill()
    service.read_until("webserver exited unexpectedly")
    assert service.wait() == 1
    assert service.processes() == []


def test_next_start_stops_leftover_processes(
    start: Callable[[], Service],
) -> None:
    service = start()
    service.read_until("Ready.")
    service.process.kill()
    service.wait()
    assert service.processes() != []
    service = start()
    service.read_until("Stopping leftover processes")
    service.read_until("Ready.")
    assert service.interrupt() == 0
    assert service.processes() == []
