"""hadolint accepts the Dockerfile; the Dockerfile names each ignored rule with its reason."""

import subprocess
from pathlib import Path

import pytest

from sim_pipeline_tests.support.tools import tool

DOCKERFILE = (Path(__file__).parents[2] / "Dockerfile").read_text(encoding="utf-8")


def findings(dockerfile: str) -> str:
    """Return hadolint's findings of every severity."""
    done = subprocess.run(
        [tool("hadolint"), "--no-color", "--failure-threshold", "style", "-"],
        input=dockerfile,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == (done.stdout == ""), done.stderr
    return done.stdout


def test_dockerfile_has_no_findings() -> None:
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
def test_mistake_is_found(rule: str, line: str) -> None:
    assert rule in findings(f"{DOCKERFILE}\n{line}\n")
