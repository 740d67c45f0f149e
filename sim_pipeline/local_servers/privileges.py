"""Chooses the user for programs that refuse to run as root, such as PostgreSQL."""

import os
import pwd
import shutil
from pathlib import Path

from sim_pipeline.local_servers.processes import CURRENT_USER, RunAs, run

# Inside this user namespace root appears as an ordinary user. Outside, the files that the program
# creates belong to root, so that no system user and no change of ownership is needed.
_UNSHARE = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")


def unprivileged_user(directory: Path) -> RunAs:
    """Return a user other than root that can work in `directory`.

    The first of these that applies:

    1. The current user, if it is not root.
    2. The owner of the directory, if it is not root.
    3. An ordinary user in a user namespace, if the system allows user namespaces.
    4. The user `nobody`, which becomes the owner of the directory.

    Raises:
        OSError: If the directory cannot be read or its owner cannot be changed.
        KeyError: If there is no user `nobody` to fall back to.
    """
    if os.geteuid() != 0:
        return CURRENT_USER
    owner = directory.stat()
    if owner.st_uid != 0:
        return RunAs(user=owner.st_uid, group=owner.st_gid)
    if _user_namespaces_allowed():
        return RunAs(prefix=_UNSHARE)
    nobody = pwd.getpwnam("nobody")
    os.chown(directory, nobody.pw_uid, nobody.pw_gid)
    return RunAs(user=nobody.pw_uid, group=nobody.pw_gid)


def _user_namespaces_allowed() -> bool:
    return shutil.which(_UNSHARE[0]) is not None and run([*_UNSHARE, "true"]).returncode == 0
