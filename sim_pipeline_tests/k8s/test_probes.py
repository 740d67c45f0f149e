"""The probes of code location and daemon, and the end of the webserver, with real programs."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sim_pipeline.config import Settings
from sim_pipeline.dagster_instance.storage import create_tables
from sim_pipeline.local_servers.ports import listens
from sim_pipeline.local_servers.postgres import LocalPostgres
from sim_pipeline_tests.k8s.manifests import named, pods
from sim_pipeline_tests.k8s.rendering import Manifest
from sim_pipeline_tests.support.assertions import wait_until
from sim_pipeline_tests.support.ports import free_port

PROJECT = Path(__file__).parents[2]
HANDSHAKE = (
    b"GET /graphql HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: graphql-ws\r\n\r\n"
)
BIN = Path(sys.executable).parent


@pytest.fixture
def environment(
    settings: Settings,
    postgres_server: LocalPostgres,
    local: list[Manifest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, str]:
    """The pods' environment, with local addresses and paths; Dagster's tables exist."""
    name = f"dagster_{uuid.uuid4().hex}"
    postgres_server.ensure_database(name)
    instance_file = named(local, "ConfigMap", "dagster-instance")["data"]["dagster.yaml"]
    (tmp_path / "dagster.yaml").write_text(
        instance_file.replace("/var/lib/sim_pipeline", str(tmp_path)), encoding="utf-8"
    )
    local_values = {
        **settings.environment(),
        "DAGSTER_POSTGRES_DB": name,
        "DAGSTER_STORAGE_HOST": postgres_server.host,
        "DAGSTER_STORAGE_PORT": str(postgres_server.port),
        "DAGSTER_HOME": str(tmp_path),
        "CODE_SERVER_HOST": "127.0.0.1",
        "CODE_SERVER_PORT": str(free_port()),
    }
    variables = named(local, "ConfigMap", "settings")["data"] | local_values
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    with dg.DagsterInstance.get() as instance:
        create_tables(instance)
    return {**os.environ}


def command(container: dict[str, object], **replaced: str) -> list[str]:
    """Return a container's command, with these options' values replaced."""
    words = container["command"]
    assert isinstance(words, list)
    options = {f"--{name}": value for name, value in replaced.items()}
    return [
        f"{word.partition('=')[0]}={options[word.partition('=')[0]]}"
        if word.partition("=")[0] in options
        else word
        for word in words
    ]


@contextmanager
def running(words: list[str], environment: dict[str, str], directory: Path) -> Iterator[None]:
    process = subprocess.Popen([BIN / words[0], *words[1:]], env=environment, cwd=directory)
    with process:
        try:
            yield
        finally:
            process.kill()  # how it ends is not what the probes ask


def test_code_location_reports_health(
    local: list[Manifest], environment: dict[str, str], tmp_path: Path
) -> None:
    (container,) = pods(local)["code-location"].spec["containers"]
    name = container["readinessProbe"]["grpc"]["service"]
    assert container["livenessProbe"]["grpc"] == container["startupProbe"]["grpc"]
    port = environment["CODE_SERVER_PORT"]
    words = command(container, host="127.0.0.1", port=port)
    with (
        running(words, {**environment, "PYTHONPATH": str(PROJECT)}, tmp_path),
        # By default the client's reconnection delay grows to two minutes.
        grpc.insecure_channel(
            f"127.0.0.1:{port}", options=[("grpc.max_reconnect_backoff_ms", 1_000)]
        ) as channel,
    ):
        grpc.channel_ready_future(channel).result(timeout=120)
        answer = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=name), timeout=30
        )
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_webserver_ends_in_time_despite_open_connections(
    production: list[Manifest], environment: dict[str, str], tmp_path: Path
) -> None:
    spec = pods(production)["webserver"].spec
    container = spec["containers"][0]
    port = free_port()
    (tmp_path / "workspace.yaml").write_text("load_from: []", encoding="utf-8")
    words = command(container, port=str(port), workspace=str(tmp_path / "workspace.yaml"))
    words = [sys.executable if word == "python" else word for word in words]
    variables = {**environment, "PYTHONPATH": str(PROJECT), "UI_PORT": str(port)}
    process = subprocess.Popen(words, env=variables, cwd=tmp_path)
    try:
        wait_until(lambda: listens("127.0.0.1", port), "the webserver", seconds=120)
        # A browser's connections: one of HTTP that it keeps, and a WebSocket for live updates.
        kept = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        kept.request("GET", "/server_info")
        assert kept.getresponse().read()
        with socket.create_connection(("127.0.0.1", port), timeout=30) as updates:
            updates.sendall(HANDSHAKE % port)
            assert updates.recv(1024).startswith(b"HTTP/1.1 101 ")
            process.send_signal(signal.SIGTERM)
            pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            process.wait(timeout=spec["terminationGracePeriodSeconds"] - pause)
        kept.close()
    finally:
        process.kill()
        process.wait()


def test_daemon_is_alive_only_while_running(
    local: list[Manifest], environment: dict[str, str], tmp_path: Path
) -> None:
    (container,) = pods(local)["daemon"].spec["containers"]
    probe = container["livenessProbe"]["exec"]["command"]
    assert container["startupProbe"]["exec"]["command"] == probe

    def alive() -> bool:
        asked = subprocess.run(
            [BIN / probe[0], *probe[1:]], env=environment, cwd=tmp_path, check=False
        )
        return asked.returncode == 0

    assert not alive()
    words = command(container, workspace=str(PROJECT / "workspace.yaml"))
    with running(words, environment, tmp_path):
        wait_until(alive, "the daemon's heartbeats", seconds=120)
