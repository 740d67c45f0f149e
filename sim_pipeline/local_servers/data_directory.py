"""The directory a local server, or the service, lives in: made, with room, one owner at a time."""

import fcntl
import os
import shutil
from pathlib import Path

from sim_pipeline.errors import ServiceError

# RabbitMQ stops taking messages at 50 MB free, a new PostgreSQL cluster takes 40 MB.
_NEEDED_BYTES = 128 * 2**20


class ServiceDirectory:
    """A server's directory, held by one process at a time.

    What holds it is a lock of the kernel's (flock): a killed owner leaves none behind. Children
    do not inherit it, so a server that outlives its owner can be adopted by the next one.

    Args:
        service: Name of the server, for messages.
        path: The directory.
    """

    def __init__(self, service: str, path: Path) -> None:
        self._service = service
        self._path = path
        self._lock: int | None = None

    def take(self) -> None:
        """Make the directory where missing, and make it this process's.

        Raises:
            ServiceError: If it cannot be written, less than 128 MiB are free on its disk, or
                another live process has it.
        """
        try:
            self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
            free = shutil.disk_usage(self._path).free
            if free < _NEEDED_BYTES:
                raise ServiceError(
                    f"{self._service}: the disk of {self._path} is full: {free // 2**20} MiB "
                    f"are free, {_NEEDED_BYTES // 2**20} needed"
                )
            self._take_lock()
        except OSError as error:
            raise file_error(self._service, error, self._path) from error

    @property
    def is_held(self) -> bool:
        """Whether this process has taken it."""
        return self._lock is not None

    def release(self) -> None:
        """Give the directory back; without effect where it is not held."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_lock(self) -> None:
        lock = os.open(self._path / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(lock, 0)
            os.write(lock, f"{os.getpid()}\n".encode())
        except BlockingIOError:
            owner = os.read(lock, 32).decode().strip()
            os.close(lock)
            raise ServiceError(
                f"{self._service}: {self._path} is in use by process {owner}: stop that first"
                f" (Ctrl-C where it runs, or kill {owner})"
            ) from None
        except OSError:
            os.close(lock)
            raise
        self._lock = lock


def file_error(service: str, error: OSError, directory: Path) -> ServiceError:
    """Return what to raise where the file system refuses: full, read-only, not ours.

    Args:
        service: Name of the server, for the message.
        error: What the operating system said.
        directory: What to name where it named no file.
    """
    place = error.filename or directory
    return ServiceError(f"{service}: {error.strerror or error}: {place}")
