"""The Dockerfile holds to the rules of hadolint; those it breaks are named in it, with why."""

import subprocess
from pathlib import Path

import pytest

from sim_pipeline_tests.support.tools import tool

DOCKERFILE = (Path(__file__).parents[2] / "Dockerfile").read_text(encoding="utf-8")


def findings(dockerfile: str) -> str:
    """Return what hadolint has to say, down to matters of style."""
    done = subprocess.run(
        [tool("hadolint"), "--no-color", "--failure-threshold", "style", "-"],
        input=dockerfile,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == (done.stdout == ""), done.stderr
    return done.stdout


def test_the_linter_has_nothing_to_say() -> None:
    assert findings(DOCKERFILE) == ""


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ("DL3007", "FROM python:latest"),
        ("DL3002", "USER root"),
        ("DL3008", "RUN apt-get install -y gcc"),
        ("DL3020", "ADD sim_pipeline /app/sim_pipeline"),
    ],
)
def test_it_would_about_a_mistake(rule: str, line: str) -> None:
    assert rule in findings(f"{DOCKERFILE}\n{line}\n")
