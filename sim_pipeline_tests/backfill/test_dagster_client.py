"""The client against a real web server, and its errors if no web server answers."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml

from sim_pipeline.backfill.dagster_client import (
    DagsterClient,
    WebserverError,
    WebserverUnreachableError,
)
from sim_pipeline.dagster_instance.run_tags import REQUEST_TAG
from sim_pipeline.local_servers.ports import listens
from sim_pipeline_tests.support.assertions import wait_until
from sim_pipeline_tests.support.ports import free_port

REQUEST = "2026-11-20T00:00:00Z/2026-11-21T00:00:00Z/abcdefabcdef"
CONFIG = Path(__file__).parents[2] / "dagster.yaml"


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
    """An instance with the run queue of one machine."""
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    queue = {name: config[name] for name in ("concurrency", "run_coordinator")}
    with dg.instance_for_test(overrides=queue) as instance:
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


def run(instance: dg.DagsterInstance, request: str = REQUEST) -> str:
    return failing.execute_in_process(
        instance=instance, tags={REQUEST_TAG: request}, raise_on_error=False
    ).run_id


def test_failed_run_shows_error_of_its_step(
    webserver: DagsterClient, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The client then reads the log in several parts.
    monkeypatch.setattr("sim_pipeline.backfill.dagster_client._EVENTS_PER_QUERY", 3)
    first = run(instance)
    run(instance, "another")
    last = run(instance)
    assert [each.run_id for each in webserver.runs(REQUEST)] == [last, first]
    (_, found) = webserver.runs(REQUEST)
    assert (found.root, found.parent, found.status) == (first, None, "FAILURE")
    assert found.tags[REQUEST_TAG] == REQUEST
    assert webserver.error_of(first) == "RuntimeError: the broker is gone"
    assert webserver.page(first) == f"{webserver.url}/runs/{first}"


def test_canceled_run_shows_the_reason(
    webserver: DagsterClient, instance: dg.DagsterInstance
) -> None:
    canceled = instance.create_run_for_job(failing)
    instance.report_run_canceled(canceled, "Not launched: LLM_MODELS_STR no longer names 'A'")
    reason = webserver.error_of(canceled.run_id)
    assert reason == "Not launched: LLM_MODELS_STR no longer names 'A'"


def test_run_limit_is_that_of_the_queue(webserver: DagsterClient) -> None:
    assert webserver.run_limit() == 3


def test_refusal_has_dagsters_message(webserver: DagsterClient) -> None:
    with pytest.raises(WebserverError, match=r"answers: .*simulation"):
        webserver.launch("simulation", [{}], {})
    with pytest.raises(
        WebserverError, match="does not have the assets metric_frames and benchmark_feed"
    ):
        webserver.materialized()


def test_closed_port_is_named_with_advice() -> None:
    port = free_port()
    with pytest.raises(WebserverUnreachableError, match=rf"127\.0\.0\.1:{port}, set by UI_HOST"):
        DagsterClient(f"http://127.0.0.1:{port}").runs(REQUEST)


def test_other_server_is_named_with_advice() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"220 mail.example.org ESMTP\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(WebserverUnreachableError, match="set by UI_HOST"):
            DagsterClient(f"http://127.0.0.1:{server.getsockname()[1]}").runs(REQUEST)
        thread.join()
