"""The whole service in its own directory, started by `python -m sim_pipeline run`."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from benchmarks import dagster_api
from benchmarks.footprint import processes_of
from sim_pipeline.config import Settings, read_settings, variable_name
from sim_pipeline.local_servers.ports import free_port

_START = timedelta(minutes=5)
_STOP = timedelta(minutes=2)
_POLL_SECONDS = 0.2
_ANSWER_SECONDS = 60.0


class ServiceUnderTest:
    """A running service; a context manager that always stops it.

    Args:
        directory: the service's directory.
        overrides: settings by field name, in addition to generated ports and passwords.
    """

    def __init__(self, directory: Path, overrides: Mapping[str, Any]) -> None:
        self.directory = directory.resolve()
        self.settings: Settings = read_settings(
            {
                "_env_file": None,
                "local_services": True,
                "postgres_port": free_port(),
                "postgres_password": secrets.token_urlsafe(),
                "rabbitmq_port": free_port(),
                "rabbitmq_password": secrets.token_urlsafe(),
                "ui_port": free_port(),
                "log_file": self.directory / "logs" / "sim_pipeline.log",
                **overrides,
            }
        )
        self._console = self.directory / "console.log"
        self._process: psutil.Popen | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    @property
    def process(self) -> psutil.Popen:
        """The supervisor process."""
        if self._process is None:
            raise RuntimeError("the service was not started")
        return self._process

    def require_running(self) -> None:
        """Raise RuntimeError, with the end of its output, if the service has ended."""
        if self.process.poll() is not None:
            raise RuntimeError(f"the service ended:\n{self.console()[-4000:]}")

    def console(self) -> str:
        """Return its output so far."""
        return self._console.read_text(encoding="utf-8", errors="replace")

    def graphql(self, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Query Dagster's GraphQL API.

        Raises:
            RuntimeError: the answer contains errors.
        """
        return dagster_api.graphql(self.settings.ui_port, query, variables, seconds=_ANSWER_SECONDS)

    def _start(self) -> None:
        env_file = self.directory / ".env"
        env_file.touch(mode=0o600)
        env_file.write_text(
            "".join(
                f"{name}={value}\n" for name, value in self.settings.environment().items() if value
            ),
            encoding="utf-8",
        )
        # Environment variables would override the file.
        ours = {variable_name(field) for field in Settings.model_fields} | {"DAGSTER_HOME"}
        with self._console.open("wb") as console:
            self._process = psutil.Popen(
                [sys.executable, "-m", "sim_pipeline", "run"],
                cwd=self.directory,
                env={name: value for name, value in os.environ.items() if name not in ours},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START.total_seconds()
        while "Ready." not in self.console():
            self.require_running()
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"the service was not ready within {_START}:\n{self.console()[-4000:]}"
                )
            # Polls the console for "Ready."; returns at once if the service ends.
            with suppress(psutil.TimeoutExpired):
                self.process.wait(_POLL_SECONDS)

    def _stop(self) -> None:
        """Send Ctrl-C, then kill the remaining processes."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(_STOP.total_seconds())
            except psutil.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        left = processes_of(self.directory, self._process) - {self._process}
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=10)
