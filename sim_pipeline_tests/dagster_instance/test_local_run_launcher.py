"""The launcher's checks of run processes: real runs of a real code server, and forged reports."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster._core.events import DagsterEvent, EngineEventData
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._core.storage.tags import MAX_RUNTIME_SECONDS_TAG
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration

from sim_pipeline.dagster_instance.local_run_launcher import LocalRunLauncher
from sim_pipeline.local_servers.ports import listens
from sim_pipeline_tests.support.assertions import wait_until
from sim_pipeline_tests.support.ports import free_port

JOB = """
import pathlib
import signal
import time
import dagster as dg

def ignore_interrupts(*_):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pathlib.Path("ignores_sigint").touch()

@dg.op
def wait_for_ever():
    signal.signal(signal.SIGUSR1, ignore_interrupts)
    pathlib.Path("waits").touch()
    while True:
        time.sleep(3600)

@dg.job(executor_def=dg.in_process_executor)
def endless():
    wait_for_ever()

defs = dg.Definitions(jobs=[endless])
"""

INSTANCE = """
run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}
run_launcher:
  module: sim_pipeline.dagster_instance.local_run_launcher
  class: LocalRunLauncher
run_monitoring: {enabled: true, cancel_timeout_seconds: 1}
"""


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster.yaml").write_text(INSTANCE)
    (tmp_path / "endless.py").write_text(JOB)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as instance:
        yield instance


@pytest.fixture
def code_server(instance: dg.DagsterInstance, tmp_path: Path) -> Iterator[psutil.Popen]:  # noqa: ARG001 - must exist first
    """A code server, and a workspace file that names it."""
    port = free_port()
    (tmp_path / "workspace.yaml").write_text(
        f"load_from: [grpc_server: {{host: 127.0.0.1, port: {port}, location_name: endless}}]"
    )
    server = psutil.Popen(
        [
            *(sys.executable, "-m", "sim_pipeline.dagster_instance.code_server", "grpc"),
            *("--python-file", "endless.py"),
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


def launch(directory: Path) -> bool:
    """Have the code server start a run that may take at most 0.1 s."""
    launched = subprocess.run(
        [
            *(sys.executable, "-m", "dagster", "job", "launch", "-w", "workspace.yaml"),
            *("-j", "endless", "--tags", json.dumps({MAX_RUNTIME_SECONDS_TAG: "0.1"})),
        ],
        cwd=directory,
        check=False,
        capture_output=True,
    )
    return launched.returncode == 0


def status(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status


@pytest.fixture
def worker(code_server: psutil.Popen, tmp_path: Path) -> psutil.Process:
    """The process of a started run that never ends."""
    assert launch(tmp_path)
    wait_until((tmp_path / "waits").exists, "the run to start", seconds=60)
    (fork_server,) = [child for child in code_server.children() if child.children()]
    (worker,) = fork_server.children()
    return worker


def health(instance: dg.DagsterInstance, run: dg.DagsterRun) -> CheckRunHealthResult:
    launcher = instance.run_launcher
    assert isinstance(launcher, LocalRunLauncher)
    assert launcher.supports_check_run_worker_health
    return launcher.check_run_worker_health(run)


def test_killed_process_is_found_without_code_server(
    instance: dg.DagsterInstance, code_server: psutil.Popen, worker: psutil.Process
) -> None:
    (run,) = instance.get_runs()
    assert health(instance, run).status is WorkerStatus.RUNNING

    # A suspended fork server neither reaps nor reports its child. A zombie is not alive.
    fork_server = worker.parent()
    assert fork_server is not None
    fork_server.suspend()
    worker.kill()
    wait_until(lambda: worker.status() == psutil.STATUS_ZOMBIE, "the process to die")
    found = health(instance, run)
    assert found.status is WorkerStatus.FAILED
    assert str(worker.pid) in str(found.msg)

    # After the code server is gone too, no process is left.
    code_server.kill()
    code_server.wait()
    fork_server.resume()
    wait_until(lambda: not psutil.pid_exists(worker.pid), "the process to be reaped")
    wait_until(lambda: not psutil.pid_exists(fork_server.pid), "the fork server to end")
    assert health(instance, run).status is WorkerStatus.FAILED


def monitor(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """Run one iteration of the daemon's run monitoring."""
    target = WorkspaceFileTarget([str(tmp_path / "workspace.yaml")])
    with WorkspaceProcessContext(instance, target) as context:
        errors = list(execute_run_monitoring_iteration(context, logging.getLogger(__name__)))
    assert not any(errors)


@pytest.mark.parametrize("state", ["running", "suspended", "ignores_sigint"])
def test_run_over_its_time_limit_is_ended(
    instance: dg.DagsterInstance, worker: psutil.Process, tmp_path: Path, state: str
) -> None:
    if state == "suspended":
        worker.suspend()
    if state == "ignores_sigint":
        worker.send_signal(signal.SIGUSR1)  # makes the job ignore SIGINT
        wait_until((tmp_path / "ignores_sigint").exists)
    (run,) = instance.get_runs()
    monitor(instance, tmp_path)
    assert status(instance, run) is dg.DagsterRunStatus.FAILURE
    wait_until(lambda: not worker.is_running(), "its process to end")
    assert status(instance, run) is dg.DagsterRunStatus.FAILURE
    # The code server still launches runs.
    assert launch(tmp_path)


def test_suspended_process_is_killed_on_cancel(
    instance: dg.DagsterInstance,
    worker: psutil.Process,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sim_pipeline.dagster_instance.local_run_launcher._MARKING_SECONDS", 0.5)
    worker.suspend()
    (run,) = instance.get_runs()
    # The process that requested the end, such as the web server, died before it could kill the run.
    instance.report_run_canceling(run)

    def is_canceled() -> bool:
        monitor(instance, tmp_path)
        return bool(instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.CANCELED])))

    wait_until(is_canceled, "the run to be canceled")
    wait_until(lambda: not worker.is_running(), "its process to end")
    (event,) = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_CANCELED)
    assert f"Killing its process (pid {worker.pid})" in str(event.dagster_event.message)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "tags",
    [
        {"dagster/partition": "2026-11-20|B"},
        {
            "dagster/asset_partition_range_start": "2026-11-20|A",
            "dagster/asset_partition_range_end": "2026-11-20|B",
        },
    ],
)
def test_run_of_removed_model_is_canceled(
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tags: dict[str, str],
) -> None:
    @dg.job
    def empty() -> None:
        pass

    monkeypatch.setenv("LLM_MODELS_STR", "A")
    run = instance.create_run_for_job(empty, status=dg.DagsterRunStatus.STARTING, tags=tags)
    instance.run_launcher.launch_run(LaunchRunContext(dagster_run=run, workspace=None))
    assert status(instance, run) is dg.DagsterRunStatus.CANCELED
    assert caplog.messages == [
        f"Run {run.run_id}: Not launched: LLM_MODELS_STR no longer names 'B'"
    ]


def report(instance: dg.DagsterInstance, run: dg.DagsterRun, pid: int, at: float) -> None:
    """Store the event that a run's process reports at its start, with this time."""
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


def test_other_process_with_same_pid_is_ignored(
    instance: dg.DagsterInstance, run: dg.DagsterRun
) -> None:
    created = psutil.Process().create_time()
    report(instance, run, os.getpid(), created - 60)
    assert health(instance, run).status is WorkerStatus.FAILED
    # The code server started a second process after its first answer was lost: the run is alive.
    report(instance, run, os.getpid(), time.time())
    assert health(instance, run).status is WorkerStatus.RUNNING


def test_run_without_reported_process_is_running(
    instance: dg.DagsterInstance, run: dg.DagsterRun
) -> None:
    assert health(instance, run).status is WorkerStatus.RUNNING
