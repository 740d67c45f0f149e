"""How to run a program that refuses to run as root."""

import functools
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

# Inside a user namespace of its own, root is this ordinary user; outside, the files it makes
# are root's, so that no system user is needed and nothing changes hands.
_UNSHARE = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")


@dataclass(frozen=True)
class Identity:
    """Who a child process is run as: a prefix for its command and, or, a user and group."""

    prefix: tuple[str, ...] = ()
    user: int | None = None
    group: int | None = None

    def give(self, path: Path) -> None:
        """Make `path` the identity's own, so that it can be read and written as it."""
        if self.user is not None and self.group is not None:
            os.chown(path, self.user, self.group)


def identity_for(directory: Path) -> Identity:
    """Choose whom to run as, so that a program that refuses root can work in `directory`.

    Not root: as we are. Root: as the owner of the directory where that is somebody else,
    otherwise as root inside a user namespace, and where those are shut as `nobody`.

    Raises:
        OSError: If the directory cannot be read.
        KeyError: If there is no user `nobody` to fall back to.
    """
    if os.geteuid() != 0:
        return Identity()
    owner = directory.stat()
    if owner.st_uid != 0:
        return Identity(user=owner.st_uid, group=owner.st_gid)
    if _user_namespaces_open():
        return Identity(prefix=_UNSHARE)
    nobody = pwd.getpwnam("nobody")
    return Identity(user=nobody.pw_uid, group=nobody.pw_gid)


@functools.cache
def _user_namespaces_open() -> bool:
    if shutil.which(_UNSHARE[0]) is None:
        return False
    probe = subprocess.run([*_UNSHARE, "true"], check=False, capture_output=True)
    return probe.returncode == 0
