"""Common base of the local servers: start, adopt and stop a server."""

import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

from sim_pipeline.errors import ServiceError
from sim_pipeline.local_servers.data_directory import ServiceDirectory, file_error
from sim_pipeline.local_servers.ports import address, require_free
from sim_pipeline.local_servers.processes import Process, is_alive

_POLL_SECONDS = 0.05


class LocalServer(ABC):
    """A server on the loopback interface that keeps all its files in one directory.

    It runs in its own session, so that Ctrl-C in the terminal does not reach it; `stop` stops it.
    If the process that started it was killed, the next `start` on the same directory adopts the
    server. As a context manager it starts and stops the server.

    Args:
        data_dir: Its directory; created if missing.
        host: Loopback address to listen on.
        port: TCP port to listen on.
        user: The administrator; each start ensures that it exists.
        password: The administrator's password; each start sets it.
        start_timeout: Time until it must accept connections, recovery included [s].
    """

    service: ClassVar[str]
    """Name of the server, for messages."""
    port_variable: ClassVar[str]
    """Environment variable that sets the port, for messages."""

    def __init__(
        self,
        data_dir: Path,
        *,
        host: str,
        port: int,
        user: str,
        password: str,
        start_timeout: float,
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.host = host
        self.port = port
        self.user = user
        self.password = password
        self._start_timeout = start_timeout
        self._directory = ServiceDirectory(self.service, self.data_dir)
        self._process: Process | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    @abstractmethod
    def log_file(self) -> Path:
        """The path of the server's log."""

    @property
    def is_running(self) -> bool:
        """Whether its process is alive."""
        return self._process is not None and is_alive(self._process)

    def start(self) -> None:
        """Start the server, or adopt the one that still runs, and wait until it is ready.

        Raises:
            ServiceError: If its programs are missing, the directory is in use or not writable, the
                disk is full, the port is in use, or it is not ready in time.
        """
        self._directory.acquire()
        try:
            self._start()
        except BaseException as error:
            self.stop()
            if isinstance(error, OSError):
                raise file_error(self.service, error, self.data_dir) from error
            raise

    def stop(self) -> None:
        """Stop the server and wait until all its processes have exited.

        Does nothing if the server was not started.

        Raises:
            ServiceError: If it does not stop.
        """
        if not self._directory.is_held:
            return
        try:
            self._shut_down()
        finally:
            self._directory.release()

    @abstractmethod
    def _start(self) -> None:
        """Adopt or launch the server and wait until it is ready."""

    @abstractmethod
    def _shut_down(self) -> None:
        """Stop all its processes."""

    @abstractmethod
    def _probe(self) -> bool | None:
        """Try to log in once: True on success, False if refused, None if nothing answers yet."""

    @abstractmethod
    def _startup_error(self) -> str | None:
        """Return the error from its output that stopped its start, or None if there is none."""

    def _await_ready(self) -> bool:
        """Wait until the server answers; return whether it lets us log in."""
        deadline = time.monotonic() + self._start_timeout
        while (accepted := self._probe()) is None:
            if not self.is_running:
                # Another program may have taken the port since we checked it.
                require_free(self.service, self.port, self.host, self.port_variable)
                raise ServiceError(
                    f"{self.service}: {self._startup_error() or 'it exited'} (log: {self.log_file})"
                )
            if time.monotonic() > deadline:
                error = self._startup_error()
                raise ServiceError(
                    f"{self.service} does not answer on {address(self.host, self.port)} "
                    f"after {self._start_timeout:g} s{f': {error}' if error else ''} "
                    f"(log: {self.log_file})"
                )
            # No event says that the server is ready, so poll.
            time.sleep(_POLL_SECONDS)
        return accepted

    def _shutdown_error(self) -> ServiceError:
        return ServiceError(f"{self.service} does not stop (log: {self.log_file})")
