"""The launcher's look at a run's process: real runs of a real code server, and forged reports."""

import contextlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster._core.events import DagsterEvent, EngineEventData
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus

from sim_pipeline.service.ports import free_port, listens
from sim_pipeline.service.run_launcher import LocalRunLauncher
from sim_pipeline_tests.waiting import wait_until

JOB = """
import threading
import dagster as dg

@dg.op
def wait_for_ever():
    threading.Event().wait()

@dg.job(executor_def=dg.in_process_executor)
def endless():
    wait_for_ever()

defs = dg.Definitions(jobs=[endless])
"""

INSTANCE = """
run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}
run_launcher:
  module: sim_pipeline.service.run_launcher
  class: LocalRunLauncher
"""


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster.yaml").write_text(INSTANCE)
    (tmp_path / "endless.py").write_text(JOB)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as instance:
        yield instance


@pytest.fixture
def code_server(instance: dg.DagsterInstance, tmp_path: Path) -> Iterator[psutil.Popen]:  # noqa: ARG001 - it has to be there first
    """A code server, and a workspace file that names it."""
    port = free_port()
    (tmp_path / "workspace.yaml").write_text(
        f"load_from: [grpc_server: {{host: 127.0.0.1, port: {port}, location_name: endless}}]"
    )
    server = psutil.Popen(
        [
            *(sys.executable, "-m", "dagster", "api", "grpc", "--python-file", "endless.py"),
            *("--host", "127.0.0.1", "--port", str(port), "--location-name", "endless"),
        ],
        cwd=tmp_path,
    )
    wait_until(lambda: listens("127.0.0.1", port), "the code server", seconds=60)
    yield server
    with contextlib.suppress(psutil.NoSuchProcess):  # killed by the test
        for process in (*server.children(recursive=True), server):
            process.kill()
    server.wait()


def health(instance: dg.DagsterInstance, run: dg.DagsterRun) -> CheckRunHealthResult:
    launcher = instance.run_launcher
    assert isinstance(launcher, LocalRunLauncher)
    assert launcher.supports_check_run_worker_health
    return launcher.check_run_worker_health(run)


def test_a_run_whose_process_was_killed_is_found_without_the_code_server(
    instance: dg.DagsterInstance, code_server: psutil.Popen, tmp_path: Path
) -> None:
    subprocess.run(
        [sys.executable, "-m", "dagster", "job", "launch", "-w", "workspace.yaml", "-j", "endless"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
    wait_until(lambda: bool(instance.get_runs(started)), "the run to start", seconds=60)
    (run,) = instance.get_runs(started)
    assert health(instance, run).status is WorkerStatus.RUNNING

    # The code server can neither reap its child nor report it: a zombie is no worker.
    code_server.suspend()
    (worker,) = [
        child for child in code_server.children() if "--multiprocessing-fork" in child.cmdline()
    ]
    worker.kill()
    wait_until(lambda: worker.status() == psutil.STATUS_ZOMBIE, "the process to die")
    found = health(instance, run)
    assert found.status is WorkerStatus.FAILED
    assert str(worker.pid) in str(found.msg)

    # Nor is there anything left once the code server is gone too.
    code_server.kill()
    code_server.wait()
    wait_until(lambda: not psutil.pid_exists(worker.pid), "the process to be reaped")
    assert health(instance, run).status is WorkerStatus.FAILED


def report(instance: dg.DagsterInstance, run: dg.DagsterRun, pid: int, at: float) -> None:
    """Enter what a run's process says when it begins, as if at this time."""
    instance.handle_new_event(
        dg.EventLogEntry(  # type: ignore[no-untyped-call]
            error_info=None,
            level=logging.INFO,
            user_message="",
            run_id=run.run_id,
            timestamp=at,
            dagster_event=DagsterEvent(
                event_type_value=dg.DagsterEventType.ENGINE_EVENT.value,
                job_name=run.job_name,
                message=f"Started process for run (pid: {pid}).",
                event_specific_data=EngineEventData.in_process(pid),
            ),
        )
    )


@pytest.fixture
def run(instance: dg.DagsterInstance) -> dg.DagsterRun:
    @dg.job
    def empty() -> None:
        pass

    return instance.create_run_for_job(empty, status=dg.DagsterRunStatus.STARTED)


def test_another_process_under_the_same_number_is_no_worker(
    instance: dg.DagsterInstance, run: dg.DagsterRun
) -> None:
    created = psutil.Process().create_time()
    report(instance, run, os.getpid(), created - 60)
    assert health(instance, run).status is WorkerStatus.FAILED
    # A second process, started where the first one's answer was lost, keeps the run alive.
    report(instance, run, os.getpid(), time.time())
    assert health(instance, run).status is WorkerStatus.RUNNING


def test_a_run_that_no_process_reported_for_is_left_alone(
    instance: dg.DagsterInstance, run: dg.DagsterRun
) -> None:
    assert health(instance, run).status is WorkerStatus.RUNNING
