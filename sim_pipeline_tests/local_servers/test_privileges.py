"""The user for programs that refuse to run as root."""

import os
from pathlib import Path

import pytest

from sim_pipeline.local_servers.privileges import unprivileged_user
from sim_pipeline.local_servers.processes import CURRENT_USER, RunAs

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.mark.skipif(os.geteuid() == 0, reason="needs an ordinary user")
def test_ordinary_user_is_kept(tmp_path: Path) -> None:
    assert unprivileged_user(tmp_path) == CURRENT_USER


@as_root
def test_root_becomes_the_directory_owner(tmp_path: Path) -> None:
    os.chown(tmp_path, 12_345, 23_456)
    assert unprivileged_user(tmp_path) == RunAs(user=12_345, group=23_456)


@as_root
def test_root_is_never_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # without unshare there are no user namespaces
    run_as = unprivileged_user(tmp_path)
    assert run_as.user not in {None, 0}
    assert tmp_path.stat().st_uid == run_as.user
