"""Finds RabbitMQ's programs on this machine, and installs the package if it is missing."""

import logging
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sim_pipeline.errors import ServiceError

logger = logging.getLogger(__name__)

INSTALL_HINT = (
    "install the package rabbitmq-server (apt-get install rabbitmq-server, "
    "brew install rabbitmq), or set LOCAL_SERVICES=false to use your own servers"
)

# Debian's and Red Hat's packages, Homebrew on both kinds of Mac and on Linux, the official
# container image. They come before the PATH, because Debian's rabbitmq-server in the PATH is a
# wrapper for the system service that only root and the user rabbitmq may run.
_SCRIPT_DIRECTORIES: tuple[str, ...] = (
    "/usr/lib/rabbitmq/bin",
    "/opt/homebrew/opt/rabbitmq/sbin",
    "/usr/local/opt/rabbitmq/sbin",
    "/home/linuxbrew/.linuxbrew/opt/rabbitmq/sbin",
    "/opt/rabbitmq/sbin",
)
# Directories outside the PATH that may have Erlang or RabbitMQ.
_SEARCH_DIRECTORIES = (
    "/usr/local/sbin",
    "/usr/sbin",
    "/usr/local/bin",
    "/opt/homebrew/bin",
    "/home/linuxbrew/.linuxbrew/bin",
    "/opt/erlang/bin",
)

# Runs as root. The package would start a system service and enable it at boot, which the user has
# not asked for. So a policy file denies the start, and the script disables the service. An existing
# policy file still decides about all other services and is restored afterwards; if the script is
# killed, the next attempt restores it. The port mapper of an Erlang that was there before is kept.
_APT_SCRIPT = r"""
set -u
policy=/usr/sbin/policy-rc.d
theirs=$policy.before-sim_pipeline
put_back() {
    rm -f "$policy"
    if [ -e "$theirs" ]; then mv "$theirs" "$policy"; fi
}
if grep -qs 'Written by sim_pipeline' "$policy"; then put_back; fi
if [ -e "$policy" ]; then mv "$policy" "$theirs"; fi
trap put_back EXIT
trap 'exit 1' HUP INT TERM
cat > "$policy" <<END
#!/bin/sh
# Written by sim_pipeline while it installs RabbitMQ without starting it as a service.
case "\$*" in *rabbitmq-server*|*epmd*) exit 101 ;; esac
[ ! -x "$theirs" ] || exec "$theirs" "\$@"
END
chmod 755 "$policy"
had_epmd=$(command -v epmd)
apt-get -q update
apt-get -q -o DPkg::Lock::Timeout=120 install -y --no-install-recommends rabbitmq-server || exit 1
update-rc.d rabbitmq-server disable
if [ -z "$had_epmd" ] && command -v systemctl; then
    systemctl disable epmd.socket epmd.service
fi
exit 0
"""


@dataclass(frozen=True)
class RabbitMQPrograms:
    """The paths of RabbitMQ's programs."""

    server: Path
    """The script rabbitmq-server."""
    ctl: Path
    """The script rabbitmqctl."""
    epmd: Path
    """Erlang's port mapper daemon."""
    search_path: str
    """A PATH that lets these scripts find Erlang."""

    def major_version(self) -> int:
        """Return the major version of RabbitMQ; 0 if its folder does not tell.

        Starting rabbitmqctl for it would start a port mapper that outlives us.
        """
        found = [
            int(match[1])
            for path in self.server.resolve().parents[1].glob("plugins/rabbit-*")
            if (match := re.match(r"rabbit-(\d+)\.", path.name))
        ]
        return max(found, default=0)


def find_programs() -> RabbitMQPrograms | None:
    """Find RabbitMQ; return None if it, or the Erlang that it needs, is not installed."""
    search_path = os.pathsep.join((os.environ.get("PATH", os.defpath), *_SEARCH_DIRECTORIES))
    erl = shutil.which("erl", path=search_path)
    if erl is None:
        return None
    epmd = shutil.which("epmd", path=search_path) or Path(erl).resolve().with_name("epmd")
    directories = [Path(directory) for directory in _SCRIPT_DIRECTORIES]
    on_path = shutil.which("rabbitmq-server", path=search_path)
    if on_path is not None:
        directories.append(Path(on_path).resolve().parent)
    for directory in directories:
        server, ctl = directory / "rabbitmq-server", directory / "rabbitmqctl"
        if os.access(server, os.X_OK) and os.access(ctl, os.X_OK):
            return RabbitMQPrograms(server, ctl, Path(epmd), search_path)
    return None


def ensure_installed() -> RabbitMQPrograms:
    """Find RabbitMQ, and install it if it is missing.

    It installs with apt-get (as root, or with sudo if that needs no password) or with Homebrew. It
    neither starts nor enables the system service.

    Raises:
        ServiceError: If RabbitMQ is missing and cannot be installed. The message says what to
            install.
    """
    programs = find_programs()
    if programs is not None:
        return programs
    command = _install_command()
    if command is None:
        raise ServiceError(f"RabbitMQ is not installed: {INSTALL_HINT}")
    logger.info("RabbitMQ is not installed: installing it with %s", command.manager)
    status, output = _run_uninterrupted(command.words)
    programs = find_programs()
    if programs is None:
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(("E: ", "Error: "))]
        reason = (errors or lines or [f"exit status {status}"])[-1]
        raise ServiceError(f"RabbitMQ: {command.manager} failed ({reason}): {INSTALL_HINT}")
    return programs


@dataclass(frozen=True)
class _InstallCommand:
    manager: str
    words: tuple[str, ...]


def _install_command() -> _InstallCommand | None:
    is_root = os.geteuid() == 0
    if shutil.which("apt-get"):
        as_root = () if is_root else ("sudo", "-n")
        if is_root or (shutil.which("sudo") and _run_uninterrupted((*as_root, "true"))[0] == 0):
            script = ("env", "DEBIAN_FRONTEND=noninteractive", "sh", "-c", _APT_SCRIPT)
            return _InstallCommand("apt-get", (*as_root, *script))
    if shutil.which("brew") and not is_root:  # Homebrew refuses root
        return _InstallCommand("brew", ("brew", "install", "rabbitmq"))
    return None


def _run_uninterrupted(command: tuple[str, ...]) -> tuple[int, str]:
    """Run a command to its end even on Ctrl-C, because an interrupted installation does harm.

    Returns:
        Its exit status and its output, standard error included.
    """
    process = subprocess.Popen(  # noqa: S603 - the commands are above
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate()
    except BaseException:
        process.communicate()
        raise
    return process.returncode, output
