"""The user for programs that refuse to run as root."""

import os
import pwd
from pathlib import Path

import pytest

from sim_pipeline.errors import ServiceError
from sim_pipeline.local_servers.privileges import unprivileged_user
from sim_pipeline.local_servers.processes import CURRENT_USER, RunAs, run

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.mark.skipif(os.geteuid() == 0, reason="needs an ordinary user")
def test_ordinary_user_is_kept(tmp_path: Path) -> None:
    assert unprivileged_user(tmp_path) == CURRENT_USER


@pytest.fixture
def account() -> pwd.struct_passwd:
    """An account of this machine that is not root's."""
    return next(account for account in pwd.getpwall() if account.pw_uid != 0)


@as_root
def test_root_becomes_the_directory_owner(tmp_path: Path, account: pwd.struct_passwd) -> None:
    os.chown(tmp_path, account.pw_uid, 23_456)
    assert unprivileged_user(tmp_path) == RunAs(user=account.pw_uid, group=23_456)


@as_root
@pytest.mark.parametrize("owner", [0, 12_345])
def test_user_has_an_account(tmp_path: Path, owner: int) -> None:
    os.chown(tmp_path, owner, owner)
    tmp_path.chmod(0o777)
    run_as = unprivileged_user(tmp_path)
    completed = run(["id", "--user", "--name"], run_as=run_as, directory=tmp_path)
    assert pwd.getpwnam(completed.stdout.strip()).pw_uid != 0
    run(["touch", "file"], run_as=run_as, directory=tmp_path)
    if run_as.prefix:
        assert (tmp_path / "file").stat().st_uid == owner


@as_root
@pytest.mark.parametrize("path", [None, ""])
def test_machine_without_ordinary_user_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str | None
) -> None:
    if path is not None:
        monkeypatch.setenv("PATH", path)
    monkeypatch.setattr(pwd, "getpwall", lambda: [pwd.getpwuid(0)])
    with pytest.raises(ServiceError, match="needs a user other than root, and /etc/passwd has"):
        unprivileged_user(tmp_path)


@as_root
def test_first_account_replaces_a_missing_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, account: pwd.struct_passwd
) -> None:
    monkeypatch.setattr(pwd, "getpwall", lambda: [pwd.getpwuid(0), account])
    monkeypatch.setenv("PATH", "")  # without unshare there are no user namespaces
    assert unprivileged_user(tmp_path).user == account.pw_uid


@as_root
def test_root_is_never_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # without unshare there are no user namespaces
    run_as = unprivileged_user(tmp_path)
    assert run_as.user not in {None, 0}
    assert tmp_path.stat().st_uid == run_as.user
