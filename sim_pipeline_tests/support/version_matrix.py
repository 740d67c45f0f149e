"""Plays the tests of broker, store, service and consumers on several versions of the servers.

`make test-versions` runs it. A row is a combination of Python, PostgreSQL and RabbitMQ: those of
this machine with each Python that it has, and those of Debian's releases, each unpacked with
debootstrap into a folder below VERSIONS_DIR. The machine itself is not changed. Needs root for
Debian's rows. What a machine lacks is in the table.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sim_pipeline_tests.support.server_programs import POSTGRES

PROJECT = Path(__file__).parents[2]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
AREAS: Mapping[str, Sequence[str]] = {
    "broker": ["broker"],
    "servers": ["local_servers"],
    # Debian's Node.js has hundreds of packages; the machine's own rows test that consumer.
    "consumers": ["docs/test_consumers.py", "-k", "not node"],
    "store": ["store"],
    "service": ["service"],
    "faults": ["chaos"],
}
FAULT_ROUNDS = "2"
SCRIPT = """
set -e
cd "$1"; shift
mount --rbind . .
mkdir -p ".$PROJECT" proc dev mnt
cp /etc/resolv.conf etc
{ cat /etc/hosts; echo "127.0.0.1 $(uname -n)"; } > etc/hosts
mount -t proc proc proc
mount --rbind /dev dev
mount --bind "$PROJECT" ".$PROJECT"
cd "$PWD"
pivot_root . mnt
umount -l /mnt
cd "$PROJECT"
exec "$@"
"""
"""Runs a command in a root folder, in which the checkout has its own path. After pivot_root,
unlike after chroot, the command may create user namespaces."""


@dataclass(frozen=True)
class Debian:
    """A release of Debian, and the folder of its PostgreSQL programs."""

    suite: str
    postgres: str


RELEASES = (
    Debian("bookworm", "/usr/lib/postgresql/15/bin"),
    Debian("trixie", "/usr/lib/postgresql/17/bin"),
    Debian("sid", "/usr/lib/postgresql/18/bin"),
)
PACKAGES = "python3-venv python3-dev gcc g++ make procps util-linux rabbitmq-server"


class MissingError(Exception):
    """A row cannot be played on this machine; the message says what is missing."""


@dataclass(frozen=True)
class Row:
    """A combination that can be played.

    Attributes:
        name: What it is called in the table.
        python: Its interpreter, with the locked dependencies.
        root: The folder that it runs in as its root, or None for this machine.
        variables: Environment variables for the tests.
    """

    name: str
    python: str
    root: Path | None
    variables: Mapping[str, str]

    def run(self, command: Sequence[str], log: Path) -> tuple[int, str]:
        """Run a command with the row's interpreter; return its exit status and output."""
        return _run([self.python, *command], log, self.root, self.variables)


def _run(
    command: Sequence[str],
    log: Path,
    root: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    environment = dict(os.environ)
    words = list(command)
    if root is not None:
        # Only what pip and the tests may need, because the root has its own paths.
        kept = {n: v for n, v in environment.items() if n.startswith("PIP_") or "_CERT" in n}
        environment = {**kept, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        namespaces = ("unshare", "--mount", "--pid", "--fork", "--propagation", "private")
        words = [*namespaces, "sh", "-c", SCRIPT, "sh", str(root), *words]
    done = subprocess.run(
        words,
        cwd=PROJECT,
        env={**environment, "PROJECT": str(PROJECT), "LANG": "C.UTF-8", **(variables or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {' '.join(command)}\n{done.stdout}\n")
    return done.returncode, done.stdout


def _require(command: Sequence[str], log: Path, root: Path | None = None) -> None:
    status, output = _run(command, log, root, {"DEBIAN_FRONTEND": "noninteractive"})
    if status:
        last = (output.strip().splitlines() or ["no output"])[-1]
        raise MissingError(f"{command[0]} failed: {last} (log: {log})")


def _venv(python: str, folder: Path, log: Path, root: Path | None = None) -> str:
    """Create an environment with the locked dependencies; return its interpreter.

    Args:
        python: The interpreter to create it with.
        folder: Where to create it, as seen in the root.
        log: File for the output.
        root: The root folder, or None for this machine.
    """
    outside = (root / folder.relative_to("/")) if root else folder
    lock = (PROJECT / "locks" / "dev.txt").read_text(encoding="utf-8")
    stamp = outside / "installed.txt"
    interpreter = str(folder / "bin" / "python")
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != lock:
        _require([python, "-m", "venv", "--clear", str(folder)], log, root)
        options = ["--quiet", "--require-hashes", "--requirement", "locks/dev.txt"]
        _require([interpreter, "-m", "pip", "install", *options], log, root)
        stamp.write_text(lock, encoding="utf-8")
    return interpreter


def python_row(version: str, folder: Path, log: Path) -> Row:
    """Prepare a Python of this machine.

    Raises:
        MissingError: It is not installed, or the dependencies cannot be installed.
    """
    python = shutil.which(f"python{version}")
    if python is None:
        raise MissingError(f"python{version} is not installed")
    status, output = _run([python, "--version"], log)
    if status:  # a shim of pyenv that finds no such version
        raise MissingError(f"{python} does not run: {output.strip().partition(chr(10))[0]}")
    interpreter = _venv(python, folder / f"python{version}", log)
    return Row(f"this machine, Python {version}", interpreter, None, {"PYTHONPATH": str(PROJECT)})


def debian_row(release: Debian, folder: Path, log: Path) -> Row:
    """Unpack a release of Debian with its servers.

    Raises:
        MissingError: This user is not root, or a program or package is missing.
    """
    if os.geteuid() != 0:
        raise MissingError("needs root")
    root = folder / release.suite
    ready = root / "ready"
    if not ready.exists():
        shutil.rmtree(root, ignore_errors=True)
        _bootstrap(release.suite, root, folder, log)
        # The packages must not start their services.
        policy = root / "usr" / "sbin" / "policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        version = release.postgres.split("/")[-2]
        install = ["apt-get", "install", "--yes", "--no-install-recommends"]
        _require([*install, *PACKAGES.split(), f"postgresql-{version}"], log, root)
        # The authorities that this machine trusts, for its package index.
        authorities = Path("/etc/ssl/certs/ca-certificates.crt")
        if authorities.exists():
            (root / "etc" / "ssl" / "certs").mkdir(parents=True, exist_ok=True)
            shutil.copy(authorities, root / authorities.relative_to("/"))
        ready.touch()
    python = _venv("/usr/bin/python3", Path("/venv"), log, root)
    variables = {
        "PYTHONPATH": str(PROJECT),
        "PYTHONDONTWRITEBYTECODE": "1",
        POSTGRES: release.postgres,
    }
    return Row(f"Debian {release.suite}", python, root, variables)


def _bootstrap(suite: str, root: Path, folder: Path, log: Path) -> None:
    variables = dict(os.environ)
    program = shutil.which("debootstrap")
    if program is None:
        if shutil.which("apt-get") is None:
            raise MissingError("debootstrap is not installed")
        unpacked = folder / "debootstrap"
        unpacked.mkdir(exist_ok=True)
        _require(["sh", "-c", f"cd '{unpacked}' && apt-get download debootstrap"], log)
        _require(["sh", "-c", f"cd '{unpacked}' && dpkg -x debootstrap_*.deb ."], log)
        program = str(unpacked / "usr" / "sbin" / "debootstrap")
        variables["DEBOOTSTRAP_DIR"] = str(unpacked / "usr" / "share" / "debootstrap")
    status, output = _run([program, "--variant=minbase", suite, str(root)], log, None, variables)
    if status:
        raise MissingError(f"debootstrap {suite}: {output.strip().splitlines()[-1]} (log: {log})")


def facts(row: Row, log: Path) -> tuple[str, str, str]:
    """Return the versions of Python, PostgreSQL and RabbitMQ in a row."""
    code = (
        "import sys; from sim_pipeline_tests.support import server_programs as p;"
        " p.use_chosen_programs(); from sim_pipeline.local_servers import postgres as g,"
        " rabbitmq_package as r; from pathlib import Path; q = r.find_programs();"
        " print('FACTS', sys.version.split()[0], g._major_version(g._binaries(Path('/none'))"
        " / 'postgres'), q and next(q.server.resolve().parents[1].glob('plugins/rabbit-*'))"
        ".name.removeprefix('rabbit-'))"
    )
    _, output = row.run(["-c", code], log)
    found = re.search(r"^FACTS (\S+) (\S+) (\S+)$", output, re.MULTILINE)
    return (found[1], found[2], found[3]) if found else ("?", "?", "?")


def play(row: Row, areas: Sequence[str], log: Path) -> tuple[list[str], bool]:
    """Run the tests of some areas; return the counts of each, and whether all passed."""
    counts, good = [], True
    for area in areas:
        folder, *options = AREAS[area]
        command = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
        status, output = row.run([*command, f"sim_pipeline_tests/{folder}", *options], log)
        found = re.findall(r"(\d+) (passed|failed|errors?|skipped|xfailed)", output[-2000:])
        counts.append(", ".join(f"{n} {what}" for n, what in found[-4:]) or f"status {status}")
        good = good and status == 0
        _say(f"{row.name}: {area}: {counts[-1]}")
    return counts, good


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the output of a command


def main() -> int:
    """Play the rows and print the table; return 1 if a test failed or no row was played."""
    names = [f"python{version}" for version in PYTHONS] + [release.suite for release in RELEASES]
    default = Path.home() / ".cache" / "sim_pipeline" / "versions"
    parser = argparse.ArgumentParser(description="Play the tests on several versions.")
    parser.add_argument("rows", nargs="*", help=f"some of {', '.join(names)}; by default all")
    parser.add_argument("--areas", default=",".join(AREAS), help=f"some of {','.join(AREAS)}")
    arguments = parser.parse_args()
    areas = arguments.areas.split(",")
    for given, allowed in ((arguments.rows, names), (areas, AREAS)):
        if unknown := set(given) - set(allowed):
            parser.error(f"{', '.join(sorted(unknown))}: allowed is one of {', '.join(allowed)}")
    folder = Path(os.environ.get("VERSIONS_DIR", default)).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("FAULT_ROUNDS", FAULT_ROUNDS)
    table = ["| row | Python | PostgreSQL | RabbitMQ | " + " | ".join(areas) + " | minutes |"]
    table.append("|---" * (len(areas) + 5) + "|")
    failed, played = False, False
    for name in arguments.rows or names:
        log = folder / f"{name}.log"
        log.unlink(missing_ok=True)
        began = time.monotonic()
        try:
            release = next((found for found in RELEASES if found.suite == name), None)
            row = (
                debian_row(release, folder, log)
                if release
                else python_row(name.removeprefix("python"), folder, log)
            )
        except MissingError as error:
            table.append(f"| {name} | not played: {error} |")
            _say(f"{name}: not played: {error}")
            continue
        counts, good = play(row, areas, log)
        failed, played = failed or not good, True
        minutes = f"{(time.monotonic() - began) / 60:.0f}"
        table.append(f"| {' | '.join([row.name, *facts(row, log), *counts, minutes])} |")
    _say("\n".join(["", *table, "", f"The output of each row is in {folder}"]))
    return int(failed or not played)


if __name__ == "__main__":
    sys.exit(main())
