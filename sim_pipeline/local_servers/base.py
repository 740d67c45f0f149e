"""What the local servers have in common: how one is started, adopted and stopped."""

import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

from sim_pipeline.errors import ServiceError
from sim_pipeline.local_servers.data_directory import ServiceDirectory, file_error
from sim_pipeline.local_servers.ports import address, require_free
from sim_pipeline.local_servers.processes import Process, is_alive

_POLL_SECONDS = 0.05


class LocalServer(ABC):
    """A server of our own on the loopback interface, with all it keeps in one directory.

    It runs in a session of its own: Ctrl-C in the terminal does not reach it, `stop` ends it.
    Where its owner was killed, the next `start` on the same directory adopts it. As a context
    manager it is started and stopped.

    Args:
        service: Its name, for messages.
        data_dir: Its directory; created where missing.
        host: Loopback address to listen on.
        port: TCP port to listen on.
        user: Its administrator; made to exist at each start.
        password: Their password; made to be it at each start.
        port_variable: Name of the setting that holds the port, for messages.
        start_timeout: Seconds until it must answer, recovery included.
    """

    def __init__(
        self,
        service: str,
        data_dir: Path,
        *,
        host: str,
        port: int,
        user: str,
        password: str,
        port_variable: str,
        start_timeout: float,
    ) -> None:
        self.service = service
        self.data_dir = data_dir.resolve()
        self.host = host
        self.port = port
        self.user = user
        self.password = password
        self._port_variable = port_variable
        self._start_timeout = start_timeout
        self._directory = ServiceDirectory(service, self.data_dir)
        self._process: Process | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    @abstractmethod
    def log_file(self) -> Path:
        """Where it logs."""

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and is_alive(self._process)

    def start(self) -> None:
        """Start the server, or adopt the one that still runs here, and wait until it answers.

        Raises:
            ServiceError: If its programs are missing, the directory is in use, cannot be written
                or has no room, the port is taken, or it does not answer in time.
        """
        self._directory.take()
        try:
            self._start()
        except BaseException as error:
            self.stop()
            if isinstance(error, OSError):
                raise file_error(self.service, error, self.data_dir) from error
            raise

    def stop(self) -> None:
        """Stop the server and wait until all its processes are gone.

        Without effect where it was not started.

        Raises:
            ServiceError: If it does not end.
        """
        if not self._directory.is_held:
            return
        try:
            self._shut_down()
        finally:
            self._directory.release()

    @abstractmethod
    def _start(self) -> None:
        """Adopt or launch it, and wait for its answer."""

    @abstractmethod
    def _shut_down(self) -> None:
        """End all its processes."""

    @abstractmethod
    def _answer(self) -> bool | None:
        """Connect once: True where it takes us, False where it refuses us, None where neither."""

    @abstractmethod
    def _fault(self) -> str | None:
        """Return what kept it from starting, or None where it does not say."""

    def _await_answer(self) -> bool:
        """Wait for its answer; tell whether it takes us."""
        deadline = time.monotonic() + self._start_timeout
        while (answer := self._answer()) is None:
            if not self.is_running:
                # Between our look at the port and the server's, another may have taken it.
                require_free(self.service, self.port, self.host, self._port_variable)
                raise ServiceError(
                    f"{self.service}: {self._fault() or 'it ended'} (log: {self.log_file})"
                )
            if time.monotonic() > deadline:
                fault = self._fault()
                raise ServiceError(
                    f"{self.service} does not answer on {address(self.host, self.port)} "
                    f"after {self._start_timeout:g} s{f': {fault}' if fault else ''} "
                    f"(log: {self.log_file})"
                )
            # A server tells nobody that it takes connections: it is asked.
            time.sleep(_POLL_SECONDS)
        return answer

    def _not_ending(self) -> ServiceError:
        return ServiceError(f"{self.service} does not end (log: {self.log_file})")
