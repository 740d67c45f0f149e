"""RabbitMQ's programs on this machine: where they are, and how they get there."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from sim_pipeline.service.errors import ServiceError

INSTALL_HINT = (
    "RabbitMQ is not installed: install the package rabbitmq-server "
    "(apt-get install rabbitmq-server, brew install rabbitmq)"
)

# Debian's and Red Hat's packages, Homebrew on both kinds of Mac and on Linux, and the official
# container image. The rabbitmq-server that Debian puts on the PATH is a wrapper for its system
# service, which lets only root and the user rabbitmq in, so the PATH comes last.
_SCRIPT_DIRECTORIES = (
    "/usr/lib/rabbitmq/bin",
    "/opt/homebrew/opt/rabbitmq/sbin",
    "/usr/local/opt/rabbitmq/sbin",
    "/home/linuxbrew/.linuxbrew/opt/rabbitmq/sbin",
    "/opt/rabbitmq/sbin",
)
# Erlang lies beside them, where a login shell's PATH may not reach.
_ERLANG_DIRECTORIES = (
    "/opt/homebrew/bin",
    "/usr/local/bin",
    "/home/linuxbrew/.linuxbrew/bin",
    "/opt/erlang/bin",
)


@dataclass(frozen=True)
class RabbitMQPrograms:
    """Where RabbitMQ is installed."""

    server: Path
    """The script rabbitmq-server."""
    ctl: Path
    """The script rabbitmqctl."""
    epmd: Path
    """Erlang's port mapper daemon."""
    search_path: str
    """A PATH on which these scripts find Erlang."""


def find_programs() -> RabbitMQPrograms | None:
    """Find RabbitMQ, or return None where it, or the Erlang it needs, is not installed."""
    search_path = os.pathsep.join((os.environ.get("PATH", os.defpath), *_ERLANG_DIRECTORIES))
    erl = shutil.which("erl", path=search_path)
    if erl is None:
        return None
    on_path = shutil.which("rabbitmq-server", path=search_path)
    directories = [Path(directory) for directory in _SCRIPT_DIRECTORIES]
    if on_path is not None:
        directories.append(Path(on_path).resolve().parent)
    epmd = shutil.which("epmd", path=search_path) or Path(erl).resolve().with_name("epmd")
    for directory in directories:
        server, ctl = directory / "rabbitmq-server", directory / "rabbitmqctl"
        if os.access(server, os.X_OK) and os.access(ctl, os.X_OK):
            return RabbitMQPrograms(server, ctl, Path(epmd), search_path)
    return None


def ensure_installed() -> RabbitMQPrograms:
    """Find RabbitMQ.

    Raises:
        ServiceError: If it is not there.
    """
    programs = find_programs()
    if programs is None:
        raise ServiceError(INSTALL_HINT)
    return programs
