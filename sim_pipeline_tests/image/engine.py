"""A private Docker engine for the tests: no system service, no bridge network, no registry.

Debian's packages are unpacked into the user's cache directory, not installed. The build cache is
kept there too, so that later sessions rebuild only what changed.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from sim_pipeline.local_servers.processes import is_alive
from sim_pipeline_tests.support.assertions import wait_until

_PACKAGES = ("docker.io", "debootstrap")
_PROGRAMS = ("docker", "dockerd", "debootstrap")
_SUITE = "bookworm"
_MIRROR = "http://deb.debian.org/debian"
_INCLUDED = "python3,python3-venv,ca-certificates"
# The tests need no bridge network; without it, Docker changes no firewall rule of the machine.
_UNCONNECTED = ("--iptables=false", "--ip6tables=false", "--ip-forward=false", "--bridge=none")


class NoEngineError(Exception):
    """A Docker engine cannot run on this machine; the message says why."""


class Engine:
    """A running engine and its client.

    Args:
        environment: the client's environment, with PATH and the engine's socket.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a `docker` command and return its result; with `check`, fail if it fails."""
        done = subprocess.run(
            ["docker", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, f"docker {' '.join(arguments)}:\n{done.stderr}"
        return done

    def ensure_base(self, name: str) -> None:
        """Create a substitute for Python's official image, which is only in a registry.

        The substitute is a minimal Debian of the same version with Debian's own Python, reachable
        under the same path as in the official image.

        Args:
            name: the tag of the official image.
        """
        key = hashlib.sha256(f"{_SUITE} {_INCLUDED}".encode()).hexdigest()
        label = '{{index .Config.Labels "stand-in"}}'
        known = self.run("image", "inspect", "--format", label, name, check=False)
        if known.stdout.strip() == key:
            return
        with tempfile.TemporaryDirectory(prefix="sim_pipeline-base-") as directory:
            root = Path(directory) / "root"
            _debootstrap(root, self.environment)
            for alias in ("python", "python3"):
                (root / "usr/local/bin" / alias).symlink_to("/usr/bin/python3")
            archive = Path(directory) / "root.tar"
            left_out = ("--exclude=./proc/*", "--exclude=./var/cache/apt/archives/*")
            _run(["tar", "-C", str(root), *left_out, "-cf", str(archive), "."], self.environment)
            self.run("import", "--change", f"LABEL stand-in={key}", str(archive), name)


@contextmanager
def private_engine() -> Iterator[Engine]:
    """Run an engine while the context lasts. Other sessions wait: only one runs at a time.

    Raises:
        NoEngineError: the engine cannot be installed or does not start on this machine.
    """
    if os.geteuid() != 0:
        raise NoEngineError("a private Docker engine needs root")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sim_pipeline/docker"
    cache.mkdir(parents=True, exist_ok=True)
    with (
        (cache / "lock").open("w") as mutex,
        tempfile.TemporaryDirectory(prefix="sim_pipeline-docker-") as directory,
    ):
        fcntl.flock(mutex, fcntl.LOCK_EX)
        environment = _with_programs(cache / "programs")
        environment["DOCKER_HOST"] = f"unix://{directory}/socket"
        environment["DOCKER_CONFIG"] = directory
        data = cache / "data"
        _end_leftovers(data)
        log = Path(directory) / "log"
        with log.open("wb") as output:
            process = psutil.Popen(
                [
                    *("dockerd", *_UNCONNECTED, "--host", environment["DOCKER_HOST"]),
                    *("--data-root", str(data), "--exec-root", f"{directory}/exec"),
                    *("--pidfile", f"{directory}/pid"),
                ],
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        engine = Engine(environment)
        try:
            wait_until(
                lambda: not is_alive(process) or engine.run("version", check=False).returncode == 0,
                "dockerd to answer",
            )
            if not is_alive(process):
                lines = log.read_text(errors="replace").strip().splitlines()
                raise NoEngineError(f"dockerd does not start here: {lines[-1] if lines else ''}")
            yield engine
            engine.run("container", "prune", "--force")
            engine.run("image", "prune", "--force")
            # Enough for several versions of the dependencies.
            engine.run("builder", "prune", "--force", "--keep-storage", "4GB")
        finally:
            process.terminate()
            process.wait()
            _unmount_all(Path(directory))


def _with_programs(programs: Path) -> dict[str, str]:
    """Return an environment whose PATH has the programs; download missing ones.

    Raises:
        NoEngineError: a program cannot be downloaded.
    """
    environment = {**os.environ, "PATH": f"{programs}/usr/bin:{programs}/usr/sbin:{_path()}"}
    if (programs / "usr/share/debootstrap").exists():
        environment["DEBOOTSTRAP_DIR"] = str(programs / "usr/share/debootstrap")
    if all(shutil.which(name, path=environment["PATH"]) for name in _PROGRAMS):
        return environment
    if shutil.which("apt-get") is None:
        raise NoEngineError("dockerd and debootstrap are not installed, and there is no apt-get")
    with tempfile.TemporaryDirectory(prefix="sim_pipeline-packages-") as directory:
        (Path(directory) / "partial").mkdir()
        options = ("-q", "-y", "--no-install-recommends", "--download-only")
        archives = ("-o", f"Dir::Cache::archives={directory}", "-o", "Debug::NoLocking=true")
        try:
            _run(["apt-get", "-q", "update"], environment)
            _run(["apt-get", "install", *options, *archives, *_PACKAGES], environment)
        except AssertionError as error:
            raise NoEngineError(f"{', '.join(_PACKAGES)} cannot be downloaded: {error}") from error
        partial = programs.with_name("programs.partial")
        shutil.rmtree(partial, ignore_errors=True)
        for package in sorted(Path(directory).glob("*.deb")):
            _run(["dpkg", "-x", str(package), str(partial)], environment)
        shutil.rmtree(programs, ignore_errors=True)
        partial.rename(programs)
    return _with_programs(programs)


def _debootstrap(root: Path, environment: Mapping[str, str]) -> None:
    """Install a minimal Debian with Python, from the mirror that apt uses on this machine."""
    targets = ("Created-By: Packages", f"Codename: {_SUITE}", "Component: main")
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", *targets]
    mirrors = [uri for uri in _run(command, environment).split() if uri.endswith("/debian/")]
    options = ("--variant=minbase", f"--include={_INCLUDED}")
    _run(["debootstrap", *options, _SUITE, str(root), *(mirrors or [_MIRROR])[:1]], environment)


def _end_leftovers(data: Path) -> None:
    """End the engine of a session that was killed."""
    left = [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "dockerd" and str(data) in (process.info["cmdline"] or ())
    ]
    for process in left:
        process.terminate()
    psutil.wait_procs(left)


def _unmount_all(directory: Path) -> None:
    """Unmount what the engine leaves mounted: namespaces of containers on the host network."""
    mounts = [Path(line.split()[1]) for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if mount.is_relative_to(directory):
            _run(["umount", str(mount)], os.environ)


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"


def _run(command: list[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    output = (done.stderr.strip() or done.stdout.strip()).splitlines()
    assert done.returncode == 0, f"{command[0]}: {output[-1] if output else done.returncode}"
    return done.stdout
