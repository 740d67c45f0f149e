"""The client against a real web server, and its errors if no web server answers."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import dagster as dg
import pytest

from sim_pipeline.backfill.dagster_client import (
    DagsterClient,
    WebserverError,
    WebserverUnreachableError,
)
from sim_pipeline.local_servers.ports import free_port, listens
from sim_pipeline_tests.support.assertions import wait_until

BACKFILL = "abcdefgh"


def connect() -> None:
    raise OSError("connection refused")


@dg.op
def gives_up() -> None:
    try:
        connect()
    except OSError as error:
        raise RuntimeError("the broker is gone\nand this is a second line") from error


@dg.job(executor_def=dg.in_process_executor)
def failing() -> None:
    gives_up()


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture(scope="module")
def webserver(instance: dg.DagsterInstance) -> Iterator[DagsterClient]:
    port = free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "sim_pipeline.dagster_instance.webserver", "--empty-workspace"),
            *("--host", "127.0.0.1", "--port", str(port), "--dagster-log-level", "error"),
        ],
        cwd=instance.root_directory,
        env={
            **os.environ,
            "DAGSTER_HOME": instance.root_directory,
            "UI_PATH_PREFIX": "/simulation",
        },
    )
    try:
        wait_until(lambda: listens("127.0.0.1", port), "the webserver", seconds=120)
        yield DagsterClient(f"http://127.0.0.1:{port}/simulation")
    finally:
        process.terminate()
        process.wait()


def run(instance: dg.DagsterInstance, **tags: str) -> str:
    tags = {"dagster/backfill": BACKFILL, **tags}
    return failing.execute_in_process(instance=instance, tags=tags, raise_on_error=False).run_id


def test_failed_run_shows_error_of_its_step(
    webserver: DagsterClient, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The client then reads the log in several parts.
    monkeypatch.setattr("sim_pipeline.backfill.dagster_client._EVENTS_PER_QUERY", 3)
    first = run(instance)
    run(instance, **{"dagster/will_retry": "true"})
    run(instance, **{"dagster/backfill": "another"})
    last = run(instance)
    assert webserver.failed_runs(BACKFILL) == [first, last]
    failed = webserver.explain(first)
    assert failed.message == "RuntimeError: the broker is gone"
    assert failed.url == f"{webserver.url}/runs/{first}"


def test_refusal_has_dagsters_message(webserver: DagsterClient) -> None:
    with pytest.raises(WebserverError, match=f"answers: .*{BACKFILL}"):
        webserver.state(BACKFILL)
    with pytest.raises(
        WebserverError, match="does not have the assets metric_frames and benchmark_feed"
    ):
        webserver.materialized()


def test_closed_port_is_named_with_advice() -> None:
    port = free_port()
    with pytest.raises(WebserverUnreachableError, match=rf"127\.0\.0\.1:{port}.*`make run`"):
        DagsterClient(f"http://127.0.0.1:{port}").state(BACKFILL)


def test_other_server_is_named_with_advice() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"220 mail.example.org ESMTP\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(WebserverUnreachableError, match="`make run`"):
            DagsterClient(f"http://127.0.0.1:{server.getsockname()[1]}").state(BACKFILL)
        thread.join()
