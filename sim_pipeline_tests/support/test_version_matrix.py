"""The rows of `make test-versions` that a machine cannot play, and the choice of programs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sim_pipeline_tests.support import server_programs, version_matrix


@pytest.mark.parametrize(
    ("row", "reason"),
    [("python3.12", "python3.12 is not installed"), ("trixie", "needs root")],
)
def test_row_that_cannot_be_played_is_named(
    row: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("VERSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("FAULT_ROUNDS", "1")
    monkeypatch.setattr(sys, "argv", ["version_matrix", row])
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert version_matrix.main() == 1  # no row was played
    assert f"| {row} | not played: {reason} |" in capsys.readouterr().out.splitlines()


def test_failed_command_is_named_with_its_last_line(tmp_path: Path) -> None:
    command = ["sh", "-c", "echo one; echo two; exit 3"]
    with pytest.raises(version_matrix.MissingError, match=r"^sh failed: two \(log: "):
        version_matrix._require(command, tmp_path / "log")  # noqa: SLF001
    assert "one\ntwo" in (tmp_path / "log").read_text()


def test_counts_of_each_area_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = iter([(0, "..s [100%]\n2 passed, 1 skipped in 3s"), (1, "1 failed, 9 passed in 1s")])
    monkeypatch.setattr(version_matrix.Row, "run", lambda *_: next(outputs))
    row = version_matrix.Row("row", "python3", None, {})
    counts, good = version_matrix.play(row, ["store", "broker"], tmp_path / "log")
    assert counts == ["2 passed, 1 skipped", "1 failed, 9 passed"]
    assert not good


def test_folder_without_programs_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(server_programs.POSTGRES, str(tmp_path))
    message = (
        rf"^{server_programs.POSTGRES}={tmp_path}: allowed is a folder with postgres and initdb"
    )
    with pytest.raises(pytest.UsageError, match=message):
        server_programs.use_chosen_programs()


def test_chosen_programs_are_used_by_subprocesses(tmp_path: Path) -> None:
    for name in ("postgres", "initdb"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 17.6'\n")
        (tmp_path / name).chmod(0o755)
    code = (
        "from sim_pipeline_tests.support.server_programs import use_chosen_programs as use; use();"
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'from pathlib import Path;"
        "from sim_pipeline.local_servers.postgres import _binaries;"
        'print(_binaries(Path("none")).resolve())\'], check=True)'
    )
    shown = subprocess.check_output(
        [sys.executable, "-c", code],
        env={**os.environ, server_programs.POSTGRES: str(tmp_path)},
        text=True,
    )
    assert shown.strip() == str(tmp_path.resolve())
