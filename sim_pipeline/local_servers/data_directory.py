"""The data directory of a local server or of the service, locked by one process at a time."""

import fcntl
import os
import shutil
from pathlib import Path

from sim_pipeline.errors import ServiceError

# RabbitMQ accepts no messages below 50 MB of free space; a new PostgreSQL cluster needs 40 MB.
_NEEDED_BYTES = 128 * 2**20


class ServiceDirectory:
    """A data directory that one process at a time owns.

    The lock is the kernel's (flock), so it ends with its owner even if that is killed. Child
    processes do not inherit it, so the next owner can adopt a server that is still running.

    Args:
        service: Name of the server, for messages.
        path: The directory.
    """

    def __init__(self, service: str, path: Path) -> None:
        self._service = service
        self._path = path
        self._lock: int | None = None

    def acquire(self) -> None:
        """Create the directory if missing, and lock it for this process.

        Raises:
            ServiceError: If it is not writable, its disk has less than 128 MiB of free space, or
                another process has locked it.
        """
        try:
            self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
            free = shutil.disk_usage(self._path).free
            if free < _NEEDED_BYTES:
                raise ServiceError(
                    f"{self._service}: the disk of {self._path} is full: {free // 2**20} MiB "
                    f"are free, {_NEEDED_BYTES // 2**20} are needed"
                )
            self._acquire_lock()
        except OSError as error:
            raise file_error(self._service, error, self._path) from error

    @property
    def is_held(self) -> bool:
        """Whether this process owns the directory."""
        return self._lock is not None

    def release(self) -> None:
        """Release the lock. Does nothing if this process does not hold it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _acquire_lock(self) -> None:
        lock = os.open(self._path / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(lock, 0)
            os.write(lock, f"{os.getpid()}\n".encode())
        except BlockingIOError:
            owner = os.read(lock, 32).decode().strip()
            os.close(lock)
            raise ServiceError(
                f"{self._service}: {self._path} is in use by process {owner}; stop that process"
                f" (Ctrl-C in its terminal, or kill {owner})"
            ) from None
        except OSError:
            os.close(lock)
            raise
        self._lock = lock


def file_error(service: str, error: OSError, directory: Path) -> ServiceError:
    """Turn an operating system error, such as a full disk, into a ServiceError.

    Args:
        service: Name of the server, for the message.
        error: The operating system's error.
        directory: The path to name if `error` names none.
    """
    path = error.filename or directory
    return ServiceError(f"{service}: {error.strerror or error}: {path}")
