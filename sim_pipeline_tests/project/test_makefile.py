"""The Makefile: its help, its error messages and the installation.

The tests of k8s/ and image/ cover the targets for Kubernetes and the image.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest

from sim_pipeline_tests.support.make import PROJECT, make

MAKEFILE = (PROJECT / "Makefile").read_text(encoding="utf-8")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile without .venv, and a lock file that no package index can satisfy."""
    shutil.copy(PROJECT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "locks").mkdir()
    shutil.copy(PROJECT / "locks" / "install.py", tmp_path / "locks")
    (tmp_path / "locks" / "dev.txt").write_text(f"nothing==1 --hash=sha256:{64 * '0'}\n")
    return tmp_path


def declared_phony() -> set[str]:
    (names,) = re.findall(r"^\.PHONY: ((?:.*\\\n)*.*)$", MAKEFILE, flags=re.MULTILINE)
    return set(names.replace("\\", "").split())


def test_targets_without_a_file_are_phony() -> None:
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):(?!=)", MAKEFILE, flags=re.MULTILINE))
    assert "help" in targets
    assert targets <= declared_phony()


def test_help_lists_every_public_target() -> None:
    short_forms = {"k8-render", "k8-apply", "k8-delete"}
    done = make()
    assert done.returncode == 0, done.stderr
    listed = set(re.findall(r"^  ([a-z0-9-]+) +\S", done.stdout, flags=re.MULTILINE))
    assert listed == declared_phony() - short_forms


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "There is no target nonsense. make help lists all targets\n"),
        (["install", "LOCK=none"], "LOCK=none: allowed is one of dev, k8s, run\n"),
        (["install", "PYTHON=none"], "Python 3.11 to 3.14 is needed; none is not a Python.\n"),
    ],
)
def test_invalid_arguments_are_reported(checkout: Path, arguments: list[str], message: str) -> None:
    done = make(*arguments, directory=checkout)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stdout == ""
    assert not (checkout / ".venv").exists()


def test_failed_install_ends_with_the_remedy(checkout: Path) -> None:
    done = make("install", directory=checkout, PIP_NO_INDEX="1", PIP_CONFIG_FILE=os.devnull)
    assert done.returncode == 2
    assert "No matching distribution found for nothing==1" in done.stderr
    *_, cause, remedy, _ = done.stderr.splitlines()
    assert cause.startswith("Not installed, see the error of pip above. It needs a package index")
    assert remedy == "Run the same command again to continue"


def uv_that(tmp_path: Path, status: int) -> Path:
    """Write a stand-in for uv that records its environment; return its directory."""
    directory = tmp_path / "programs"
    directory.mkdir()
    uv = directory / "uv"
    uv.write_text(
        f"#!/bin/sh\nenv > {tmp_path}/environment\n"
        f'echo "$@" >> {tmp_path}/calls\necho Installed 1 package\nexit {status}\n'
    )
    uv.chmod(0o755)
    return directory


def test_uv_installs_from_the_index_of_pip(checkout: Path, tmp_path: Path) -> None:
    path = f"{uv_that(tmp_path, 0)}:{os.environ['PATH']}"
    configured = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_FIND_LINKS": "/one /two",
    }
    done = make("install", directory=checkout, PATH=path, **configured)
    assert done.returncode == 0, done.stderr
    assert "  Installed 1 package\n" in done.stdout
    environment = (tmp_path / "environment").read_text()
    assert "UV_DEFAULT_INDEX=http://127.0.0.1:9/simple\n" in environment
    assert "UV_FIND_LINKS=/one,/two\n" in environment
    locked, own = (tmp_path / "calls").read_text().splitlines()
    assert "--require-hashes" in locked
    assert locked.endswith("locks/dev.txt")
    assert own.endswith("--no-deps --editable .")


def test_pip_installs_if_uv_fails(checkout: Path, tmp_path: Path) -> None:
    path = f"{uv_that(tmp_path, 1)}:{os.environ['PATH']}"
    done = make(
        "install", directory=checkout, PATH=path, PIP_NO_INDEX="1", PIP_CONFIG_FILE=os.devnull
    )
    assert done.returncode == 2
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    assert "No matching distribution found for nothing==1" in done.stderr


def test_uv_is_not_built_from_source(checkout: Path, tmp_path: Path) -> None:
    source = tmp_path / "uv-1"
    source.mkdir()
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: uv\nVersion: 1\n")
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (source / "backend.py").write_text(f"open({str(tmp_path / 'built')!r}, 'w').close()\n")
    archive = tmp_path / "uv-1.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, "uv-1")
    digest = sha256(archive.read_bytes()).hexdigest()
    (checkout / "locks" / "uv.txt").write_text(f"uv==1 --hash=sha256:{digest}\n")
    done = make(
        "install",
        f"PYTHON={sys.executable}",
        directory=checkout,
        PATH=os.defpath,
        PIP_NO_INDEX="1",
        PIP_FIND_LINKS=str(tmp_path),
        PIP_CONFIG_FILE=os.devnull,
    )
    assert "Getting uv" in done.stdout
    assert not (tmp_path / "built").exists()


def test_ctrl_c_ends_the_installation_quietly(checkout: Path, tmp_path: Path) -> None:
    programs = uv_that(tmp_path, 0)
    (programs / "uv").write_text("#!/bin/sh\nkill -INT $PPID\n")
    done = subprocess.run(
        [sys.executable, "locks/install.py", "dev"],
        cwd=checkout,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGINT
    assert done.stderr == ""


def test_repeated_install_says_that_it_is_done(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / ".installed-dev").touch()
    assert make("install", directory=checkout).stdout == ".venv has everything in locks/dev.txt\n"


AWKWARD = "Документы 100% $x/it's #1 `\""


@pytest.fixture
def installable(tmp_path: Path) -> Path:
    """A checkout of a small package, at a path with characters that shells and make interpret.

    The package has no dependencies, so that pip needs no index.
    """
    checkout = tmp_path / AWKWARD
    (checkout / "locks").mkdir(parents=True)
    shutil.copy(PROJECT / "Makefile", checkout)
    shutil.copy(PROJECT / "locks" / "install.py", checkout / "locks")
    (checkout / "locks" / "run.txt").touch()
    (checkout / "locks" / "dev.txt").touch()
    (checkout / "where.py").touch()
    (checkout / "pyproject.toml").write_text(
        "[build-system]\n"
        "requires = []\n"
        'build-backend = "backend"\n'
        'backend-path = ["."]\n'
        '[project]\nname = "where"\nversion = "1"\n'
    )
    (checkout / "backend.py").write_text(BACKEND)
    return checkout


# A build backend for editable installations: its wheel contains the path of the checkout.
BACKEND = """
import os, zipfile

def build_editable(directory, settings=None, metadata=None):
    name = "where-1-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        wheel.writestr("where.pth", os.getcwd() + os.linesep)
        wheel.writestr(
            "where-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: where\\nVersion: 1\\n"
        )
        wheel.writestr(
            "where-1.dist-info/WHEEL",
            "Wheel-Version: 1.0\\nGenerator: none\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        )
        wheel.writestr("where-1.dist-info/RECORD", "")
    return name
"""


def installed_from(checkout: Path) -> Path:
    """Return the directory from which the checkout's .venv imports the package."""
    python = checkout / ".venv" / "bin" / "python"
    done = subprocess.run(
        [python, "-c", "import where; print(where.__file__)"],
        cwd=checkout.parent,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    return Path(done.stdout.rstrip("\n")).parent


REMADE = (
    ".venv was created at another path (the checkout was moved or copied): creating it again\n"
    "Installing into .venv (half a minute the first time, longer with a slow network)\n"
)


def test_moved_or_copied_checkout_runs_its_own_code(installable: Path) -> None:
    done = make("install", "LOCK=run", directory=installable)
    assert done.returncode == 0, done.stderr
    assert "another path" not in done.stdout
    assert installed_from(installable) == installable

    copied = installable.with_name("copied")
    shutil.copytree(installable, copied, symlinks=True)
    assert installed_from(copied) == installable
    done = make("install", "LOCK=run", directory=copied)
    assert done.stdout.startswith(REMADE), done.stderr
    assert installed_from(copied) == copied
    assert installed_from(installable) == installable

    moved = installable.with_name("moved")
    copied.rename(moved)
    assert make("install", "LOCK=run", directory=moved).stdout.startswith(REMADE)
    assert installed_from(moved) == moved
    again = make("install", "LOCK=run", directory=moved)
    assert again.stdout == ".venv has everything in locks/run.txt\n"


def test_target_of_a_linked_venv_is_kept(installable: Path, tmp_path: Path) -> None:
    others = tmp_path / "others"
    others.mkdir()
    (others / "pyvenv.cfg").write_text("command = /usr/bin/python3 -m venv /elsewhere/.venv\n")
    (installable / ".venv").symlink_to(others)
    done = make("install", directory=installable)
    assert done.stdout.startswith(REMADE), done.stderr
    assert [file.name for file in others.iterdir()] == ["pyvenv.cfg"]
    assert not (installable / ".venv").is_symlink()


@pytest.mark.parametrize("name", ["a:b", "a\nb", "a\tb"])
def test_path_without_venv_support_is_reported(checkout: Path, name: str) -> None:
    directory = checkout / name
    directory.mkdir()
    for file in ("Makefile", "pyproject.toml", "locks"):
        (checkout / file).rename(directory / file)
    done = make("install", directory=directory)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "The path of this checkout contains a colon or a control character;"
    )
    assert not (directory / ".venv").exists()


@pytest.mark.parametrize("rounds", ["many", "0", "-1", "1.5"])
def test_fault_rounds_are_validated(checkout: Path, rounds: str) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / ".installed-dev").touch()
    done = make("test-faults", f"FAULT_ROUNDS={rounds}", directory=checkout)
    assert done.returncode == 2
    message = f"FAULT_ROUNDS={rounds}: allowed is a whole number, 1 or more\n"
    assert message in done.stderr
