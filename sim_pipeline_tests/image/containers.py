"""Containers of the image with strict security: read-only, no root, no capabilities."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sim_pipeline_tests.image.engine import Engine
from sim_pipeline_tests.support.assertions import wait_until

IMAGE = "simulation-service:latest"
_STATE = "/var/lib/sim_pipeline"
# The engine has no bridge, so containers use the machine's network, where the servers listen.
STRICT = (
    *("--network", "host", "--read-only", "--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges"),
    *("--tmpfs", "/tmp", "--tmpfs", f"{_STATE}:uid=10001,gid=10001,mode=0700"),  # noqa: S108
)


class Container:
    """A started container."""

    def __init__(self, engine: Engine, identity: str) -> None:
        self._engine = engine
        self._identity = identity

    @property
    def state(self) -> dict[str, Any]:
        """The status, exit code and health, as in `docker inspect`."""
        answer = self._engine.run("inspect", "--format", "{{json .State}}", self._identity)
        state: dict[str, Any] = json.loads(answer.stdout)
        return state

    @property
    def lines(self) -> list[str]:
        """The output so far."""
        logs = self._engine.run("logs", self._identity)
        return (logs.stdout + logs.stderr).splitlines()

    def await_line(self, text: str) -> None:
        """Wait up to 180 s for a line that contains `text`."""

        def printed_or_ended() -> bool:
            running = self.state["Running"]
            return any(text in line for line in self.lines) or not running

        wait_until(printed_or_ended, f"{text!r}", seconds=180)
        if not any(text in line for line in self.lines):
            pytest.fail(
                f"the container ended before it printed {text!r}:\n" + "\n".join(self.lines)
            )

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container, as its user."""
        return self._engine.run("exec", self._identity, *command, check=False)

    def processes(self) -> dict[int, str]:
        """Return the command lines of its processes, by pid on this machine."""
        listed = self._engine.run("top", self._identity, "-eo", "pid,args").stdout.splitlines()[1:]
        return {int(line.split()[0]): line.partition(" ")[2] for line in map(str.strip, listed)}

    def stop(self) -> int:
        """Stop it as Docker and Kubernetes do; return its exit status.

        The engine sends SIGTERM, and SIGKILL after 30 s (exit status 137).
        """
        self._engine.run("stop", "--time", "30", self._identity)
        return self.wait()

    def wait(self) -> int:
        """Wait until it ends; return its exit status."""
        return int(self._engine.run("wait", self._identity).stdout)


@contextmanager
def container(
    engine: Engine, env_file: Path, *command: str, options: tuple[str, ...] = ()
) -> Iterator[Container]:
    """Run a container while the context lasts, with the image's default command or another."""
    identity = engine.run(
        *("run", "--detach", *STRICT, "--env-file", str(env_file), *options, IMAGE, *command)
    ).stdout.strip()
    try:
        yield Container(engine, identity)
    finally:
        engine.run("rm", "--force", identity)


def write_env_file(path: Path, variables: Mapping[str, str]) -> Path:
    """Write a Docker env file: everything after the first `=` is the value, without quoting."""
    path.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    return path
