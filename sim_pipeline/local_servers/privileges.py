"""How to run a program that refuses to run as root."""

import os
import pwd
import shutil
from pathlib import Path

from sim_pipeline.local_servers.processes import CURRENT_USER, RunAs, run

# Inside a user namespace of its own, root is this ordinary user; outside, the files it makes
# are root's, so that no system user is needed and nothing changes hands.
_UNSHARE = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")


def unprivileged_owner(directory: Path) -> RunAs:
    """Choose whom to run as, so that a program that refuses root can work in `directory`.

    Not root: as we are. Root: as the owner of the directory where that is somebody else,
    otherwise as root inside a user namespace, and where those are shut as `nobody`, whom the
    directory is then given to.

    Raises:
        OSError: If the directory cannot be read or given away.
        KeyError: If there is no user `nobody` to fall back to.
    """
    if os.geteuid() != 0:
        return CURRENT_USER
    owner = directory.stat()
    if owner.st_uid != 0:
        return RunAs(user=owner.st_uid, group=owner.st_gid)
    if _user_namespaces_open():
        return RunAs(prefix=_UNSHARE)
    nobody = pwd.getpwnam("nobody")
    os.chown(directory, nobody.pw_uid, nobody.pw_gid)
    return RunAs(user=nobody.pw_uid, group=nobody.pw_gid)


def _user_namespaces_open() -> bool:
    return shutil.which(_UNSHARE[0]) is not None and run([*_UNSHARE, "true"]).returncode == 0
