"""The image, built once a session by the target that its users build it with."""

import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sim_pipeline_tests.image.engine import Engine, NoEngineError, private_engine
from sim_pipeline_tests.image.pip_settings import authorities, pip_conf

PROJECT = Path(__file__).parents[2]
_BASE = "python:3.11-slim-bookworm"


@dataclass(frozen=True)
class Build:
    """The image, and what went into its build that is not to come out of it.

    Attributes:
        engine: has it, under the name that `make docker-build` gives it.
        pip_conf: file of the settings of pip.
        ca_file: file of the authorities.
        secrets: words of both that are nowhere else.
    """

    engine: Engine
    pip_conf: Path
    ca_file: Path
    secrets: tuple[str, ...]


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A Docker engine of this session's own; the test is skipped where there can be none."""
    try:
        with private_engine() as engine:
            engine.ensure_base(_BASE)
            yield engine
    except NoEngineError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def build(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The image, built with this machine's package index and authorities as secrets."""
    directory = tmp_path_factory.mktemp("secrets")
    marks = (secrets.token_hex(), secrets.token_hex())
    files = (directory / "pip.conf", directory / "ca.pem")
    for file, text, mark in zip(files, (pip_conf(), authorities()), marks, strict=True):
        file.write_text(f"# {mark}\n{text}", encoding="utf-8")
    done = make_image(engine, *files)
    assert done.returncode == 0, done.stdout + done.stderr
    return Build(engine, *files, secrets=marks)


def make_image(
    engine: Engine, pip_conf: Path, ca_file: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run `make docker-build` to its end, on the machine's own network."""
    return subprocess.run(
        [
            *("make", "docker-build", f"PIP_CONF={pip_conf}", f"CA_FILE={ca_file}"),
            f"DOCKER_ARGS=--network host {' '.join(arguments)}",
        ],
        cwd=PROJECT,
        env=engine.environment,
        capture_output=True,
        text=True,
        check=False,
    )
