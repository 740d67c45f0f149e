"""The Makefile: its help names every target, and what is wrong is said on standard error.

The targets for Kubernetes and for the image have tests of their own, beside what they make.
"""

import os
import re
import shutil
from pathlib import Path

import pytest

from sim_pipeline_tests.make import PROJECT, make

MAKEFILE = (PROJECT / "Makefile").read_text(encoding="utf-8")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile with nothing installed, and a lock of what no index has."""
    shutil.copy(PROJECT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "dev.txt").write_text(f"nothing==1 --hash=sha256:{64 * '0'}\n")
    return tmp_path


def declared_phony() -> set[str]:
    (names,) = re.findall(r"^\.PHONY: ((?:.*\\\n)*.*)$", MAKEFILE, flags=re.MULTILINE)
    return set(names.replace("\\", "").split())


def test_every_target_that_makes_no_file_is_declared_so() -> None:
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):(?!=)", MAKEFILE, flags=re.MULTILINE))
    assert "help" in targets
    assert targets <= declared_phony()


def test_help_lists_every_target_for_people() -> None:
    parts_of_others = {"k8s-ready", "k8s-reachable", "k8s-secrets-local", "k8s-secrets-production"}
    shorter_names = {"k8-render", "k8-apply", "k8-delete"}
    done = make()
    assert done.returncode == 0, done.stderr
    listed = set(re.findall(r"^  ([a-z0-9-]+) +\S", done.stdout, flags=re.MULTILINE))
    assert listed == declared_phony() - parts_of_others - shorter_names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "There is no target nonsense: make help lists all\n"),
        (["install", "LOCK=none"], "LOCK=none: allowed is one of dev, k8s, run\n"),
        (["install", "PYTHON=none"], "Python 3.11 to 3.13 is needed; none is no Python.\n"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_made(
    checkout: Path, arguments: list[str], message: str
) -> None:
    done = make(*arguments, directory=checkout)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stdout == ""
    assert not (checkout / ".venv").exists()


def test_the_last_word_on_what_could_not_be_installed_is_what_to_do(checkout: Path) -> None:
    done = make("install", directory=checkout, PIP_NO_INDEX="1", PIP_CONFIG_FILE=os.devnull)
    assert done.returncode == 2
    assert "No matching distribution found for nothing==1" in done.stderr
    *_, cause, remedy, _ = done.stderr.splitlines()
    assert cause.startswith("Not installed: pip says above why. It needs a package index")
    assert remedy == "The same command again goes on from there"


def test_install_says_where_all_is_that_it_names(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / ".installed-dev").touch()
    assert make("install", directory=checkout).stdout == ".venv holds what locks/dev.txt names\n"


@pytest.mark.parametrize("rounds", ["many", "0", "-1", "1.5"])
def test_rounds_of_faults_are_a_whole_number(checkout: Path, rounds: str) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / ".installed-dev").touch()
    done = make("test-faults", f"FAULT_ROUNDS={rounds}", directory=checkout)
    assert done.returncode == 2
    message = f"FAULT_ROUNDS={rounds}: allowed is a whole number from 1 on\n"
    assert message in done.stderr
