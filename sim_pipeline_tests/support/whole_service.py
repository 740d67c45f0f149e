"""Start the whole service as a user does, and observe it from outside."""

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from sim_pipeline.config import Settings, read_settings
from sim_pipeline.connections import results_database
from sim_pipeline_tests.support.ports import free_port


@dataclass
class Service:
    """A running service and its working directory."""

    directory: Path
    settings: Settings
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    _lines_searched: int = 0

    def __post_init__(self) -> None:
        # Reads continuously: the service would block on a full pipe.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    def read_until(self, text: str) -> None:
        """Wait for a console line that contains `text`, up to the test's timeout.

        Each call searches only the lines after the last match.
        """
        while True:
            ended = not self._reader.is_alive()
            while self._lines_searched < len(self.lines):
                self._lines_searched += 1
                if text in self.lines[self._lines_searched - 1]:
                    return
            if ended:
                pytest.fail(f"the service ended before it printed {text!r}:\n{''.join(self.lines)}")
            self._reader.join(0.02)

    def interrupt(self) -> int:
        """Send Ctrl-C; return the exit status."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.wait()

    def wait(self) -> int:
        """Wait until the service ends and all output is read; return the exit status."""
        status = self.process.wait()
        self._reader.join()
        return status

    def query(self, statement: str, **parameters: Any) -> list[Any]:
        engine = results_database(self.settings).engine
        with engine.connect() as connection:
            return list(connection.execute(sa.text(statement), parameters))

    def graphql(self, query: str, **variables: Any) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.settings.ui_url}/graphql",
            data=json.dumps({"query": query, "variables": variables}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as response:
            answer: dict[str, Any] = json.load(response)["data"]
        return answer

    def runs(self) -> list[dict[str, Any]]:
        answer = self.graphql(
            "{ runsOrError { ... on Runs { results { runId status tags { key value } } } } }"
        )
        results: list[dict[str, Any]] = answer["runsOrError"]["results"]
        return results

    def processes(self) -> list[psutil.Process]:
        """Find every process with this directory in its cwd, command line or environment."""
        found = []
        # Not the objects of an earlier iteration: their pids may belong to other processes.
        psutil.process_iter.cache_clear()
        for process in psutil.process_iter():
            try:
                places = [process.cwd(), *process.cmdline(), *process.environ().values()]
            except psutil.Error:
                continue
            if process.pid != os.getpid() and any(str(self.directory) in place for place in places):
                found.append(process)
        return found


def write_env_file(directory: Path, variables: Mapping[str, object]) -> None:
    """Write an `.env` with local servers on free ports, and with these variables."""
    common = {
        "LOCAL_SERVICES": "true",
        "POSTGRES_PORT": free_port(),
        "POSTGRES_PASSWORD": "a secret of postgres",
        "RABBITMQ_PORT": free_port(),
        "RABBITMQ_PASSWORD": "a secret of rabbitmq",
        "UI_PORT": free_port(),
    }
    (directory / ".env").write_text(
        "".join(f"{name}={value}\n" for name, value in {**common, **variables}.items())
    )


def start_service(
    directory: Path,
    python: Path = Path(sys.executable),
    environment: Mapping[str, str] | None = None,
) -> Service:
    """Start `python -m sim_pipeline run` in a directory with an `.env`.

    Args:
        directory: the working directory of the service. The caller must also be in it, to read
            the same settings.
        python: an interpreter that can import the package.
        environment: the complete environment; by default that of this process.
    """
    process = subprocess.Popen(
        [str(python), "-m", "sim_pipeline", "run"],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        start_new_session=True,
    )
    return Service(directory, read_settings(), process)
