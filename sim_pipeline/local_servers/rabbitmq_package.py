"""RabbitMQ's programs on this machine: where they are, and how they get there."""

import logging
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sim_pipeline.errors import ServiceError

_LOGGER = logging.getLogger(__name__)

INSTALL_HINT = (
    "install the package rabbitmq-server (apt-get install rabbitmq-server, "
    "brew install rabbitmq), or set LOCAL_SERVICES=false and name a server of yours"
)

# Debian's and Red Hat's packages, Homebrew on both kinds of Mac and on Linux, the official
# container image. The PATH comes after them: the rabbitmq-server that Debian puts there is a
# wrapper for its system service, which lets only root and the user rabbitmq in.
_SCRIPT_DIRECTORIES = (
    "/usr/lib/rabbitmq/bin",
    "/opt/homebrew/opt/rabbitmq/sbin",
    "/usr/local/opt/rabbitmq/sbin",
    "/home/linuxbrew/.linuxbrew/opt/rabbitmq/sbin",
    "/opt/rabbitmq/sbin",
)
# Where Erlang, or the package itself, may be beyond the PATH.
_SEARCH_DIRECTORIES = (
    "/usr/local/sbin",
    "/usr/sbin",
    "/usr/local/bin",
    "/opt/homebrew/bin",
    "/home/linuxbrew/.linuxbrew/bin",
    "/opt/erlang/bin",
)

# Run by root. The package would start its service, and enable it at boot: nobody asked for that,
# so a policy denies the start and the service is disabled afterwards. The policy that was there
# answers for everything else meanwhile, and is put back, also by the next attempt if this one
# is killed. Erlang's port mapper is left as it was where Erlang was installed before.
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
    """Find RabbitMQ, and install it first where it is missing and that can be done.

    It can with apt-get as root or where sudo asks for no password, and with Homebrew. The
    system's service is neither started nor enabled.

    Raises:
        ServiceError: If it is missing and cannot be installed; says what to install.
    """
    programs = find_programs()
    if programs is not None:
        return programs
    command = _install_command()
    if command is None:
        raise ServiceError(f"RabbitMQ is not installed: {INSTALL_HINT}")
    _LOGGER.info("RabbitMQ is not installed: installing it with %s", command.manager)
    status, output = _run_whole(command.words)
    programs = find_programs()
    if programs is None:
        said = [line.strip() for line in output.splitlines() if line.strip()]
        errors = [line for line in said if line.startswith(("E: ", "Error: "))]
        reason = (errors or said or [f"exit status {status}"])[-1]
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
        if is_root or (shutil.which("sudo") and _run_whole((*as_root, "true"))[0] == 0):
            script = ("env", "DEBIAN_FRONTEND=noninteractive", "sh", "-c", _APT_SCRIPT)
            return _InstallCommand("apt-get", (*as_root, *script))
    if shutil.which("brew") and not is_root:  # which refuses root
        return _InstallCommand("brew", ("brew", "install", "rabbitmq"))
    return None


def _run_whole(command: tuple[str, ...]) -> tuple[int, str]:
    """Run a command to its end, Ctrl-C or not: an installation cut short is worse than a wait.

    Returns:
        Its exit status, and what it wrote to both outputs.
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
