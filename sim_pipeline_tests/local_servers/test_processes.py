"""Processes: run, find and stop them."""

import signal
import sys
from pathlib import Path

import pytest

from sim_pipeline.local_servers.processes import (
    clean_environment,
    is_alive,
    launch,
    processes_in,
    run,
    stop_processes,
)

STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)"


def test_server_gets_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", "secret")
    assert "POSTGRES_PASSWORD" not in clean_environment()
    assert "secret" not in run(["env"]).stdout


def test_process_is_found_by_its_working_directory(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    here = tmp_path / "here"
    here.mkdir()
    elsewhere.mkdir()
    process = launch(["sleep", "600"], directory=here, output=tmp_path / "log")
    try:
        assert processes_in(here, {"sleep"}) == [process]
        assert processes_in(tmp_path, {"sleep"}) == [process]
        assert processes_in(elsewhere, {"sleep"}) == []
        assert processes_in(here, {"postgres"}) == []
    finally:
        assert stop_processes([process], [(signal.SIGTERM, 10)])
    assert not is_alive(process)


def test_process_that_ignores_a_signal_gets_the_next(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = f"{STUBBORN}; signal.pause(); signal.pause()"
    process = launch([sys.executable, "-c", program], directory=tmp_path, output=log)
    while not log.read_text():
        assert is_alive(process)
    assert not stop_processes([process], [(signal.SIGTERM, 0.1)])
    assert stop_processes([process], [(signal.SIGTERM, 0.1), (signal.SIGKILL, 10)])


def test_stopping_no_process_succeeds() -> None:
    assert stop_processes([], [(signal.SIGTERM, 10)])
