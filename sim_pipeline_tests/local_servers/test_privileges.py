"""Whom programs that refuse root are run as."""

import os
from pathlib import Path

import pytest

from sim_pipeline.local_servers.privileges import unprivileged_owner
from sim_pipeline.local_servers.processes import CURRENT_USER, RunAs

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.mark.skipif(os.geteuid() == 0, reason="needs an ordinary user")
def test_an_ordinary_user_stays_who_they_are(tmp_path: Path) -> None:
    assert unprivileged_owner(tmp_path) == CURRENT_USER


@as_root
def test_root_becomes_the_owner_of_the_directory(tmp_path: Path) -> None:
    os.chown(tmp_path, 12_345, 23_456)
    assert unprivileged_owner(tmp_path) == RunAs(user=12_345, group=23_456)


@as_root
def test_root_is_never_left_as_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # no unshare: as where user namespaces are shut
    identity = unprivileged_owner(tmp_path)
    assert identity.user not in {None, 0}
    assert tmp_path.stat().st_uid == identity.user
