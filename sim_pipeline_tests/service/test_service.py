"""The service as its user starts it: `python -m sim_pipeline run`, processes and all.

What these tests look at is outside the process: the databases, the queue, the UI's API, what the
console says, and which processes there are.
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
from sim_pipeline_tests.support.queue_reader import drain
from sim_pipeline_tests.support.waiting import wait_until
from sim_pipeline_tests.support.whole_service import Service, start_service, write_env_file

pytestmark = pytest.mark.timeout(400)

MODELS = ("GPT-4o", "Llama-3.1-8B")
INTERVAL = timedelta(seconds=10)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with an `.env` for services of its own, on free ports."""
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
    # In the environment, which wins over the file, here and in every process of the service.
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


def test_a_service_simulates_publishes_stops_and_picks_up_where_it_was(
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

    # The first run, and that of a tick, with all that was missing since SIMULATION_START.
    wait_until(lambda: len(finished(service)) >= 2, "two runs", seconds=150)
    assert {run["status"] for run in finished(service)} == {"SUCCESS"}
    assert_complete(service)
    last = latest_label(service)
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
        lambda: latest_label(service) >= last + 3 * INTERVAL, "the gap to close", seconds=150
    )
    assert (last + INTERVAL).isoformat().replace("+00:00", "Z") in {
        tag["value"].split("/")[0]
        for run in service.runs()
        for tag in run["tags"]
        if tag["key"] == WINDOWS_TAG
    }
    assert_complete(service)
    assert service.interrupt() == 0


def latest_label(service: Service) -> datetime:
    label: datetime = service.query('SELECT max("timestamp") FROM deliveries')[0][0]
    return label.astimezone(UTC)


def finished(service: Service) -> list[dict[str, Any]]:
    return [run for run in service.runs() if run["status"] in ("SUCCESS", "FAILURE", "CANCELED")]


def assert_complete(service: Service) -> None:
    """Every window from the first stored to the last: four rows, one message, for each model."""
    rows = service.query(
        'SELECT llm_name, "timestamp", count(*) FROM simulation_results GROUP BY 1, 2 ORDER BY 1, 2'
    )
    assert {row[2] for row in rows} == {4}
    assert {row[0] for row in rows} == set(MODELS)
    for model in MODELS:
        labels = [row[1] for row in rows if row[0] == model]
        assert [b - a for a, b in itertools.pairwise(labels)] == [INTERVAL] * (len(labels) - 1)
    messages = drain(service.settings)
    assert len({message.message_id for message in messages}) == len(messages)


@pytest.mark.usefixtures("clean_environment")
def test_wrong_settings_end_it_before_anything_starts(directory: Path) -> None:
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
        "1 setting is wrong:\n  NUM_DATA_POINTS='0': allowed is a whole number, 1 to 10000\n"
    )
    assert not (directory / ".local").exists()


def test_a_port_in_use_is_one_clear_line(start: Callable[[], Service], directory: Path) -> None:
    service_port = read_settings().ui_port
    with socket.create_server(("127.0.0.1", service_port)):
        service = start()
        assert service.wait() == 1
    (output,) = service.lines
    assert f"port {service_port} on 127.0.0.1 is in use" in output
    assert "UI_PORT" in output
    assert not (directory / ".local" / "postgres").exists()


def test_a_second_one_in_a_directory_is_refused_and_leaves_the_first_alone(
    start: Callable[[], Service], directory: Path
) -> None:
    owned = ServiceDirectory("The service", directory / ".local" / "dagster")
    owned.take()
    with subprocess.Popen(
        ["sleep", "infinity"], env={**os.environ, "SIM_PIPELINE_SERVICE": str(directory / ".local")}
    ) as one_of_the_first:
        second = start()
        assert second.wait() == 1
        (output,) = second.lines
        assert f"{directory / '.local' / 'dagster'} is in use by process {os.getpid()}" in output
        assert one_of_the_first.poll() is None
        one_of_the_first.kill()
    owned.release()


@pytest.mark.usefixtures("clean_environment")
def test_an_interrupt_before_anything_is_started_ends_it_without_a_trace(directory: Path) -> None:
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


def test_it_ends_with_an_error_when_one_of_its_processes_dies(
    start: Callable[[], Service],
) -> None:
    service = start()
    service.read_until("Ready.")
    (webserver,) = [
        p for p in service.processes() if "sim_pipeline.dagster_instance.webserver" in p.cmdline()
    ]
    webserver.kill()
    service.read_until("webserver ended by itself")
    assert service.wait() == 1
    assert service.processes() == []


def test_what_a_killed_service_left_running_is_ended_by_the_next_one(
    start: Callable[[], Service],
) -> None:
    service = start()
    service.read_until("Ready.")
    service.process.kill()
    service.wait()
    assert service.processes() != []
    service = start()
    service.read_until("left over")
    service.read_until("Ready.")
    assert service.interrupt() == 0
    assert service.processes() == []
