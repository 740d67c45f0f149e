"""Chooses the user for programs that refuse to run as root, such as PostgreSQL."""

import os
import pwd
import shutil
from dataclasses import replace
from pathlib import Path

from sim_pipeline.errors import ServiceError
from sim_pipeline.local_servers.processes import CURRENT_USER, RunAs, run


def unprivileged_user(directory: Path) -> RunAs:
    """Return a user other than root that can work in `directory`.

    The first of these that applies:

    1. The current user, if it is not root.
    2. The owner of the directory, if it is not root.
    3. An ordinary user in a user namespace, if the system allows user namespaces.
    4. An ordinary user, which becomes the owner of the directory.

    In the first two cases too, a user without an account becomes an ordinary user in a user
    namespace, if the system allows it: initdb asks for the name of its user.

    Raises:
        OSError: If the directory cannot be read or its owner cannot be changed.
        ServiceError: If a user is needed, and root is the only one of this machine.
    """
    if (current := os.geteuid()) != 0:
        return CURRENT_USER if _has_account(current) else _in_namespace(CURRENT_USER)
    owner = directory.stat()
    if owner.st_uid != 0:
        run_as = RunAs(user=owner.st_uid, group=owner.st_gid)
        return run_as if _has_account(owner.st_uid) else _in_namespace(run_as)
    if (run_as := _in_namespace(CURRENT_USER)) != CURRENT_USER:
        return run_as
    account = _ordinary_account()
    os.chown(directory, account.pw_uid, account.pw_gid)
    return RunAs(user=account.pw_uid, group=account.pw_gid)


def _in_namespace(run_as: RunAs) -> RunAs:
    """Add a user namespace in which the user appears as an ordinary one, if the system allows it.

    Outside, the files that the program creates belong to the same user as before, so that no system
    user and no change of ownership is needed.
    """
    account = _ordinary_account()
    user, group = f"--map-user={account.pw_uid}", f"--map-group={account.pw_gid}"
    prefix = ("unshare", "--user", user, group, "--")
    inside = replace(run_as, prefix=prefix)
    allowed = shutil.which(prefix[0]) is not None
    return inside if allowed and run(["true"], run_as=inside).returncode == 0 else run_as


def _has_account(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _ordinary_account() -> pwd.struct_passwd:
    """Return the account of `nobody`, or else the first one that is not root."""
    accounts = [account for account in pwd.getpwall() if account.pw_uid != 0]
    for account in accounts:
        if account.pw_name == "nobody":
            return account
    if not accounts:
        raise ServiceError(
            "PostgreSQL needs a user other than root, and /etc/passwd has none: add one"
            " (useradd NAME), or set LOCAL_SERVICES=false to use your own servers"
        )
    return accounts[0]
