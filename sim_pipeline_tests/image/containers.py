"""Containers of the image, run as strictly as it can be: read-only, no root, no capabilities."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sim_pipeline_tests.image.engine import Engine
from sim_pipeline_tests.support.waiting import wait_until

IMAGE = "simulation-service:latest"
_STATE = "/var/lib/sim_pipeline"
# The engine has no bridge: a container is on the machine's own network, where the servers are.
STRICT = (
    *("--network", "host", "--read-only", "--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges"),
    *("--tmpfs", "/tmp", "--tmpfs", f"{_STATE}:uid=10001,gid=10001,mode=0700"),  # noqa: S108
)


class Container:
    """A container that was started, and what can be seen of it from outside."""

    def __init__(self, engine: Engine, identity: str) -> None:
        self._engine = engine
        self._identity = identity

    @property
    def state(self) -> dict[str, Any]:
        """Its status, exit code and health, as `docker inspect` has them."""
        answer = self._engine.run("inspect", "--format", "{{json .State}}", self._identity)
        state: dict[str, Any] = json.loads(answer.stdout)
        return state

    @property
    def lines(self) -> list[str]:
        """What it has said so far."""
        logs = self._engine.run("logs", self._identity)
        return (logs.stdout + logs.stderr).splitlines()

    def await_line(self, text: str) -> None:
        """Wait until it says something; the test's time-out is long, this is for a start."""

        def said_or_ended() -> bool:
            running = self.state["Running"]
            return any(text in line for line in self.lines) or not running

        wait_until(said_or_ended, f"{text!r}", seconds=180)
        if not any(text in line for line in self.lines):
            pytest.fail(f"ended without saying {text!r}:\n" + "\n".join(self.lines))

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as its user."""
        return self._engine.run("exec", self._identity, *command, check=False)

    def processes(self) -> dict[int, str]:
        """Its processes: their numbers on this machine, and their command lines."""
        listed = self._engine.run("top", self._identity, "-eo", "pid,args").stdout.splitlines()[1:]
        return {int(line.split()[0]): line.partition(" ")[2] for line in map(str.strip, listed)}

    def stop(self) -> int:
        """Have it ended as an engine or Kubernetes does; return its exit status.

        Whoever does not end on SIGTERM within 30 s is killed: 137.
        """
        self._engine.run("stop", "--time", "30", self._identity)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end; return its exit status."""
        return int(self._engine.run("wait", self._identity).stdout)


@contextmanager
def container(
    engine: Engine, env_file: Path, *command: str, options: tuple[str, ...] = ()
) -> Iterator[Container]:
    """Run the image's own command, or another one, while the context lasts."""
    identity = engine.run(
        *("run", "--detach", *STRICT, "--env-file", str(env_file), *options, IMAGE, *command)
    ).stdout.strip()
    try:
        yield Container(engine, identity)
    finally:
        engine.run("rm", "--force", identity)


def write_env_file(path: Path, variables: Mapping[str, str]) -> Path:
    """Write variables as Docker reads them: all that follows the = is the value."""
    path.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    return path
