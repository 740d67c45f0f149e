"""The servers of a test session end with the session."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sim_pipeline_tests.support.process_helpers import processes_of

SESSION = """
import os, pathlib

def test_that_interrupts_its_session(postgres_server):
    assert postgres_server.is_running
    pathlib.Path({note!r}).write_text(str(postgres_server.data_dir))
    os.kill(os.getpid(), {number:d})
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_session_stops_its_servers(tmp_path: Path, number: signal.Signals) -> None:
    note = tmp_path / "note"
    test = tmp_path / "test_session.py"
    test.write_text(SESSION.format(note=str(note), number=number))
    session = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "sim_pipeline_tests.conftest", str(test)],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert session.returncode == pytest.ExitCode.INTERRUPTED, session.stdout + session.stderr
    directory = Path(note.read_text())
    assert not directory.exists()
    assert processes_of(directory) == []
