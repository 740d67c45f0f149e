"""One owner at a time for a server's directory."""

import fcntl
import os
from pathlib import Path

from sim_pipeline.service.errors import ServiceError


class DirectoryLock:
    """Marks a directory as this process's, until released or until the process ends.

    The lock is the kernel's (flock), so that a killed owner leaves none behind. Children do
    not inherit it: a server that outlives its owner can be adopted by the next one.
    """

    def __init__(self, service: str, directory: Path) -> None:
        self._service = service
        self._path = directory / "owner.lock"
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            ServiceError: If another live process holds it.
            OSError: If the file cannot be written.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode().strip()
            os.close(descriptor)
            raise ServiceError(
                f"{self._service}: {self._path.parent} is in use by process {owner}: "
                "stop that first"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back; without effect where it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
