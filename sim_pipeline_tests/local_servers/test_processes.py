"""Processes: run, found, ended."""

import signal
import sys
from pathlib import Path

import pytest

from sim_pipeline.local_servers.processes import (
    clean_environment,
    end,
    is_alive,
    launch,
    processes_in,
    run,
)

STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)"


def test_a_server_gets_none_of_our_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", "secret")
    assert "POSTGRES_PASSWORD" not in clean_environment()
    assert "secret" not in run(["env"]).stdout


def test_it_is_found_by_where_it_works(tmp_path: Path) -> None:
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
        assert end([process], [(signal.SIGTERM, 10)])
    assert not is_alive(process)


def test_one_that_ignores_a_signal_gets_the_next(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = f"{STUBBORN}; signal.pause(); signal.pause()"
    process = launch([sys.executable, "-c", program], directory=tmp_path, output=log)
    while not log.read_text():
        assert is_alive(process)
    assert not end([process], [(signal.SIGTERM, 0.1)])
    assert end([process], [(signal.SIGTERM, 0.1), (signal.SIGKILL, 10)])


def test_ending_nothing_succeeds() -> None:
    assert end([], [(signal.SIGTERM, 10)])
