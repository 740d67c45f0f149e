"""Dagster's web server behind the guard, started as a process and requested over HTTP."""

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import pytest

from sim_pipeline.local_servers.ports import listens
from sim_pipeline_tests.support.assertions import wait_until
from sim_pipeline_tests.support.ports import free_port

PREFIX = "/simulation"
# Its effect can be queried, and it needs no other data.
MUTATION = "mutation { setNuxSeen }"
SEEN = "{ shouldShowNux }"
WEBSERVER = (sys.executable, "-m", "sim_pipeline.dagster_instance.webserver")
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol": "graphql-ws",
}


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    directory = tmp_path_factory.mktemp("webserver")
    port = free_port()
    process = subprocess.Popen(
        [*WEBSERVER, "--empty-workspace", "--dagster-log-level", "error"],
        cwd=directory,
        env={
            **os.environ,
            "DAGSTER_HOME": str(directory),
            "UI_PORT": str(port),
            "UI_PATH_PREFIX": PREFIX,
            "UI_ALLOWED_HOSTS": "ui.example.com",
        },
    )
    try:
        wait_until(lambda: listens("127.0.0.1", port), "the webserver", seconds=120)
        yield port
    finally:
        process.terminate()
        process.wait()


def ask(
    port: int, path: str, headers: Mapping[str, str] | None = None, *, body: str | None = None
) -> tuple[int, str]:
    """Send a GET, or a POST if there is a body; return status and body of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET" if body is None else "POST", path, body, dict(headers or {}))
        answer = connection.getresponse()
        switched = answer.status == http.client.SWITCHING_PROTOCOLS
        return answer.status, "" if switched else answer.read().decode()
    finally:
        connection.close()


def graphql(port: int, query: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    sent = {"Content-Type": "application/json", **(headers or {})}
    return ask(port, f"{PREFIX}/graphql", sent, body=json.dumps({"query": query}))


@pytest.mark.parametrize("path", ["/server_info", "/", "/assets", "/graphql?query={version}"])
def test_ui_is_served_below_its_path_prefix(port: int, path: str) -> None:
    assert ask(port, f"{PREFIX}{path}")[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "rebound.example.com"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_foreign_requests_do_not_reach_dagster(port: int, headers: dict[str, str]) -> None:
    before = graphql(port, SEEN)
    assert graphql(port, MUTATION, headers)[0] == 403
    assert ask(port, f"{PREFIX}/graphql", {**UPGRADE, **headers})[0] == 403
    assert ask(port, "/", headers)[0] == 403
    assert graphql(port, SEEN) == before == (200, '{"data":{"shouldShowNux":true}}')


@pytest.mark.parametrize("body", [None, ""])
@pytest.mark.parametrize("path", ["/graphql", "/graphq%6c"])
def test_url_does_not_execute_a_mutation(port: int, path: str, body: str | None) -> None:
    status, answer = ask(port, f"{PREFIX}{path}?query={quote(MUTATION)}", body=body)
    assert status == 403
    assert "mutation" in answer
    assert graphql(port, SEEN) == (200, '{"data":{"shouldShowNux":true}}')


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost", "ui.example.com"])
def test_own_pages_can_open_a_websocket(port: int, host: str) -> None:
    host = host.format(port=port)
    headers = {**UPGRADE, "Host": host, "Origin": f"http://{host}"}
    assert ask(port, f"{PREFIX}/graphql", headers)[0] == 101


# The last test of the shared web server: it changes state that the other tests expect unchanged.
def test_commands_and_own_pages_can_mutate(port: int) -> None:
    proxied = {"Host": "ui.example.com", "Origin": "https://ui.example.com"}
    assert graphql(port, MUTATION, proxied) == (200, '{"data":{"setNuxSeen":true}}')
    assert graphql(port, MUTATION) == (200, '{"data":{"setNuxSeen":true}}')


def test_invalid_settings_are_named_and_end_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [*WEBSERVER, "--empty-workspace"],
        cwd=tmp_path,
        env={**os.environ, "UI_ALLOWED_HOSTS": "https://ui.example.com"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "UI_ALLOWED_HOSTS" in done.stderr
    assert "Traceback" not in done.stderr
