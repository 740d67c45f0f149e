"""Fixtures: a private Docker engine, and the image, built once with `make docker-build`."""

import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sim_pipeline_tests.image.engine import Engine, NoEngineError, private_engine
from sim_pipeline_tests.image.pip_settings import ca_certificates, pip_conf

PROJECT = Path(__file__).parents[2]
_BASE = "python:3.11-slim-bookworm"


@dataclass(frozen=True)
class Build:
    """The image, and the build secrets that it must not contain.

    Attributes:
        engine: holds the image, under the name that `make docker-build` gives it.
        pip_conf: the file with pip's settings.
        ca_file: the file with the trusted CA certificates.
        secrets: random words that only these two files contain.
    """

    engine: Engine
    pip_conf: Path
    ca_file: Path
    secrets: tuple[str, ...]


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A private Docker engine for the session; the tests are skipped if it cannot run here."""
    try:
        with private_engine() as engine:
            engine.ensure_base(_BASE)
            yield engine
    except NoEngineError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def build(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The image, built with this machine's package index and CA certificates as secrets."""
    directory = tmp_path_factory.mktemp("secrets")
    random_words = (secrets.token_hex(), secrets.token_hex())
    files = (directory / "pip.conf", directory / "ca.pem")
    for file, text, random_word in zip(
        files, (pip_conf(), ca_certificates()), random_words, strict=True
    ):
        file.write_text(f"# {random_word}\n{text}", encoding="utf-8")
    done = make_image(engine, *files)
    assert done.returncode == 0, done.stdout + done.stderr
    return Build(engine, *files, secrets=random_words)


def make_image(
    engine: Engine, pip_conf: Path, ca_file: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run `make docker-build` with the network of this machine."""
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
