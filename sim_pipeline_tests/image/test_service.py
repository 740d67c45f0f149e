"""The image's default command runs the whole service in one container with minimal rights."""

import json
import os
import signal
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from sim_pipeline.config import Settings
from sim_pipeline.connections import results_database
from sim_pipeline.local_servers.postgres import LocalPostgres
from sim_pipeline_tests.image.conftest import PROJECT, Build
from sim_pipeline_tests.image.containers import Container, container, write_env_file
from sim_pipeline_tests.support.assertions import wait_until
from sim_pipeline_tests.support.ports import free_port
from sim_pipeline_tests.support.queue_reader import drain

pytestmark = pytest.mark.timeout(1200)

Run = Callable[..., AbstractContextManager[Container]]


@pytest.fixture
def variables(settings: Settings, postgres_server: LocalPostgres) -> dict[str, str]:
    """The environment of the service, with databases and a queue for one test."""
    dagster = f"dagster_{uuid.uuid4().hex}"
    postgres_server.ensure_database(dagster)
    return {
        **settings.environment(),
        "DAGSTER_POSTGRES_DB": dagster,
        "SIMULATION_START": datetime.now(UTC).replace(minute=0, second=0).isoformat(),
        "SIMULATION_INTERVAL": "60",
        "LOG_FILE": "logs/sim_pipeline.log",
        "UI_PORT": str(free_port()),
    }


@pytest.fixture
def run(build: Build, variables: dict[str, str], tmp_path: Path) -> Run:
    """A function that starts a container with `variables` and with others."""

    def run(
        *command: str, options: tuple[str, ...] = (), **others: str
    ) -> AbstractContextManager[Container]:
        file = write_env_file(tmp_path / "env", {**variables, **others})
        return container(build.engine, file, *command, options=options)

    return run


@pytest.fixture
def service(run: Run) -> Iterator[Container]:
    """The service, after it has printed "Ready."."""
    with run(options=("--health-interval", "1s")) as service:
        service.await_line("Ready.")
        yield service


def test_stores_and_publishes_until_stopped(
    service: Container, settings: Settings, variables: dict[str, str]
) -> None:
    wait_until(lambda: delivered(settings) >= len(settings.llm_models), "both models", seconds=120)
    wait_until(lambda: service.state["Health"]["Status"] == "healthy", "health")
    messages = drain(settings)
    assert {row["llm_name"] for message in messages for row in message.body} == {
        *settings.llm_models
    }

    status = dict(
        line.split(":\t", 1)
        for line in service.execute("cat", "/proc/1/status").stdout.splitlines()
        if ":\t" in line
    )
    assert status["Uid"].split() == ["10001"] * 4
    assert int(status["CapPrm"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert "Read-only" in service.execute("touch", "/app/sim_pipeline/new.py").stderr

    # Process 1 reaps the orphans that it inherits.
    service.execute("sh", "-c", "sleep 0.1 &")
    states = "grep -h '^State' /proc/[0-9]*/status"
    wait_until(lambda: "Z (zombie)" not in service.execute("sh", "-c", states).stdout)
    assert not any("sleep" in command for command in service.processes().values())

    assert service.stop() == 0
    assert service.lines[-1].endswith("Stopped")
    output = "\n".join(service.lines)
    assert variables["POSTGRES_PASSWORD"] not in output
    assert variables["RABBITMQ_PASSWORD"] not in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    "program", ["sim_pipeline.dagster_instance.webserver", "sim_pipeline.dagster_instance.daemon"]
)
def test_ends_when_one_of_its_processes_dies(service: Container, program: str) -> None:
    (number,) = (pid for pid, line in service.processes().items() if f"-m {program} " in line)
    os.kill(number, signal.SIGKILL)
    assert service.wait() == 1
    assert any("exited unexpectedly with status -9" in line for line in service.lines)


def test_invalid_settings_abort_startup(run: Run) -> None:
    with run(NUM_DATA_POINTS="0", LOG_LEVEL="loud") as container:
        assert container.wait() == 2
        assert [line.partition("=")[0].strip() for line in container.lines] == [
            "2 invalid settings:",
            "NUM_DATA_POINTS",
            "LOG_LEVEL",
        ]


def test_local_services_are_refused(run: Run) -> None:
    with run(LOCAL_SERVICES="true") as container:
        assert container.wait() == 2
        (_, line) = container.lines
        assert "LOCAL_SERVICES='true'" in line
        assert "allowed here is false" in line


def test_stops_while_waiting_for_a_server(run: Run) -> None:
    with run(POSTGRES_PORT="1") as container:
        container.await_line("Waiting for PostgreSQL at 127.0.0.1:1, up to 120 s")
        assert container.stop() == 0


def test_wrong_password_aborts_startup(run: Run) -> None:
    with run(RABBITMQ_PASSWORD="another") as container:  # noqa: S106 - deliberately wrong
        assert container.wait() == 1
        assert "refused to log in user 'simulation'" in container.lines[-1]


def test_cluster_programs_run_in_separate_containers(run: Run, tmp_path: Path) -> None:
    """Migration, code location, daemon and webserver each run as process 1 and end on SIGTERM."""
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    (home / "dagster.yaml").write_bytes((PROJECT / "dagster.yaml").read_bytes())
    mounted = ("--volume", f"{home}:/opt/dagster:ro")
    code_port, ui_port = str(free_port()), str(free_port())
    start = partial(
        run,
        options=mounted,
        DAGSTER_HOME="/opt/dagster",
        CODE_SERVER_HOST="127.0.0.1",
        CODE_SERVER_PORT=code_port,
    )
    workspace = ("-w", "/app/workspace.yaml")
    code = ("-m", "sim_pipeline.definitions", "--location-name", "sim_pipeline")
    with start("python", "-m", "sim_pipeline", "migrate", "--dagster") as migration:
        assert migration.wait() == 0, migration.lines
    with (
        start("dagster", "api", "grpc", "-h", "127.0.0.1", "-p", code_port, *code) as location,
        start("python", "-m", "sim_pipeline.dagster_instance.daemon", "run", *workspace) as daemon,
        start(
            *("python", "-m", "sim_pipeline.dagster_instance.webserver"),
            *("-h", "127.0.0.1", "-p", ui_port, *workspace),
        ) as webserver,
    ):
        webserver.await_line("Serving dagster-webserver")
        wait_until(
            lambda: is_healthy(f"http://127.0.0.1:{ui_port}/graphql"),
            "a loaded code location and healthy daemons",
            seconds=120,
        )
        assert [program.stop() for program in (webserver, daemon, location)] == [0, 0, 0]


def is_healthy(url: str) -> bool:
    """Return whether the webserver reports a loaded code location and healthy daemons."""
    query = """{
        workspaceOrError {
            ... on Workspace { locationEntries { locationOrLoadError { __typename } } }
        }
        instance { daemonHealth { allDaemonStatuses { required healthy } } }
    }"""
    request = urllib.request.Request(
        url, json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request) as response:
            answer = json.load(response)["data"]
    except urllib.error.URLError:  # it logs that it serves slightly before it does
        return False
    (location,) = answer["workspaceOrError"]["locationEntries"]
    daemons = answer["instance"]["daemonHealth"]["allDaemonStatuses"]
    loaded = location["locationOrLoadError"] or {}
    return loaded.get("__typename") == "RepositoryLocation" and all(
        status["healthy"] for status in daemons if status["required"]
    )


def delivered(settings: Settings) -> int:
    """Count the windows that the ledger records as published."""
    engine = results_database(settings).engine
    with engine.connect() as connection:
        query = "SELECT count(*) FROM deliveries WHERE published_at IS NOT NULL"
        return int(connection.scalar(sa.text(query)) or 0)
