"""The contents of the image: code, users, labels, and no build secrets."""

import json
import re
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from sim_pipeline_tests.image.conftest import PROJECT, Build, make_image
from sim_pipeline_tests.image.containers import IMAGE
from sim_pipeline_tests.image.pip_settings import pip_conf

pytestmark = pytest.mark.timeout(1200)

_CHUNK_BYTES = 16 * 2**20


@pytest.fixture(scope="module")
def exported(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image as an archive with its configuration, history and layers."""
    archive = tmp_path_factory.mktemp("exported") / "image.tar"
    build.engine.run("save", "--output", str(archive), IMAGE)
    return archive


@pytest.fixture(scope="module")
def config(build: Build) -> dict[str, Any]:
    answer = build.engine.run("image", "inspect", "--format", "{{json .Config}}", IMAGE)
    config: dict[str, Any] = json.loads(answer.stdout)
    return config


def shell(build: Build, script: str) -> str:
    """Run a script as root in the image, so that it can read every file."""
    options = ("--rm", "--network", "none", "--user", "0", "--entrypoint", "sh")
    return build.engine.run("run", *options, IMAGE, "-ec", script).stdout.strip()


def test_image_contains_no_build_secret(build: Build, exported: Path) -> None:
    # pip itself contains the URL of the public index.
    indexes = [url for url in re.findall(r"https?://\S+", pip_conf()) if "pypi.org" not in url]
    wanted = [word.encode() for word in (*build.secrets, *indexes)]
    assert b"sim_pipeline" in metadata_of(exported)
    with exported.open("rb") as archive:
        assert sorted(find_words(archive, wanted)) == []
    names = [name for layer in layers(exported) for name in layer]
    assert [name for name in names if "run/secrets/" in name or "pip.conf" in name] == []


def find_words(file: IO[bytes], wanted: list[bytes]) -> Iterator[bytes]:
    """Yield the words that a file contains; read it in chunks."""
    tail = b""
    while chunk := file.read(_CHUNK_BYTES):
        text = tail + chunk
        yield from (word for word in wanted if word in text)
        tail = text[-max(map(len, wanted)) :]


def metadata_of(archive: Path) -> bytes:
    """Return the image's configuration and manifest."""
    with tarfile.open(archive) as tar:
        return b"".join(
            file.read()
            for member in tar
            if member.name.endswith(".json") and (file := tar.extractfile(member))
        )


def layers(archive: Path) -> Iterator[list[str]]:
    """Yield the file names of each layer."""
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.name.endswith("layer.tar") else None
            if file is not None:
                with tarfile.open(fileobj=file) as layer:
                    yield layer.getnames()


def test_build_uses_the_given_pip_settings(build: Build, tmp_path: Path) -> None:
    wrong = tmp_path / "pip.conf"
    wrong.write_text("[global]\nindex-url = http://127.0.0.1:1/nowhere\nretries = 0\n")
    done = make_image(build.engine, wrong, build.ca_file, "--no-cache", "--target", "dependencies")
    assert done.returncode != 0
    assert "127.0.0.1:1/nowhere" in done.stdout + done.stderr


def test_missing_pip_settings_file_is_named(build: Build, tmp_path: Path) -> None:
    done = make_image(build.engine, tmp_path / "missing", build.ca_file)
    assert done.returncode != 0
    assert f"{tmp_path / 'missing'} cannot be read" in done.stderr


def test_runs_as_fixed_uid(build: Build, config: dict[str, Any]) -> None:
    assert config["User"] == "10001:10001"
    assert shell(build, "stat -c %u:%g /var/lib/sim_pipeline") == "10001:10001"
    owned = shell(build, "find / -xdev -user 10001 -not -path '/var/lib/sim_pipeline'")
    assert owned == ""


def test_user_cannot_change_files_or_gain_rights(build: Build) -> None:
    assert shell(build, "find / -xdev -type f -perm /6000") == ""
    writable = "find /app /opt /usr -xdev -not -type l -perm /022"
    assert shell(build, writable) == ""


def test_has_no_compiler_cache_or_pip(build: Build) -> None:
    assert shell(build, "for tool in gcc cc c++ make; do command -v $tool || true; done") == ""
    assert shell(build, "find / -xdev -path '*/.cache/*' -o -xdev -path '*/pip/cache/*'") == ""
    packages = shell(build, "ls /opt/venv/lib/python3*/site-packages").split()
    assert "dagster" in packages
    assert {"pip", "setuptools", "wheel"}.isdisjoint(packages)
    assert shell(build, "find /opt/venv/bin -name 'pip*'; ls /opt") == "venv"


def test_has_only_the_compiled_code_of_the_checkout(build: Build) -> None:
    assert set(shell(build, "ls -A /app").split()) == {
        "dagster.yaml",
        "migrations",
        "pyproject.toml",
        "sim_pipeline",
        "workspace.yaml",
    }
    sources = shell(build, "find /app -name '*.py' | wc -l")
    assert sources == shell(build, "find /app -name '*.pyc' | wc -l")
    assert shell(build, "find /app -name '.env*' -o -name 'test_*'") == ""


def test_labels_describe_the_image(config: dict[str, Any]) -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    labels = {
        name.removeprefix("org.opencontainers.image."): value
        for name, value in config["Labels"].items()
    }
    assert labels["title"] == "simulation-service"
    assert labels["version"] == project["version"]
    assert labels["licenses"] == project["license"]
    assert re.fullmatch("[0-9a-f]{40}", labels["revision"])
