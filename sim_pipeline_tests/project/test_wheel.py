"""The wheel: its content, and its command in an empty environment."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sim_pipeline_tests.support.make import PROJECT
from sim_pipeline_tests.support.whole_service import Service, start_service, write_env_file

pytestmark = pytest.mark.timeout(600)

UV = Path(sys.executable).with_name("uv")
YESTERDAY = datetime.now(UTC).date() - timedelta(days=1)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    subprocess.run([UV, "build", "--quiet", "--wheel", "--out-dir", directory, PROJECT], check=True)
    (wheel,) = directory.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's command in an environment with only the locked dependencies."""
    environment = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, environment], check=True)
    python = environment / "bin" / "python"
    install = [str(UV), "pip", "install", "--quiet", "--python", str(python)]
    lock = PROJECT / "locks" / "run.txt"
    subprocess.run([*install, "--require-hashes", "--requirement", str(lock)], check=True)
    subprocess.run([*install, "--no-deps", str(wheel)], check=True)
    return environment / "bin" / "sim_pipeline"


@pytest.fixture
def service(
    command: Path,
    tmp_path: Path,
    clean_environment: None,  # noqa: ARG001 - for what it clears
) -> Iterator[Service]:
    write_env_file(tmp_path, {"LLM_MODELS_STR": "GPT-4o", "CATCH_UP_HOURS": 0})
    environment = {name: os.environ[name] for name in ("PATH", "HOME")}
    subprocess.run([command, "migrate"], check=True, cwd=tmp_path, env=environment)
    service = start_service(tmp_path, command.with_name("python"), environment)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.interrupt()


def test_wheel_has_one_top_level_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as files:
        tops = {name.partition("/")[0] for name in files.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"sim_pipeline"}


def test_installed_wheel_runs_and_backfills(service: Service, command: Path) -> None:
    service.read_until("Ready.")
    backfill = subprocess.run(
        [command, "backfill", "--from", f"{YESTERDAY}", "--to", f"{YESTERDAY}T02:00"],
        check=False,
        cwd=service.directory,
        env={name: os.environ[name] for name in ("PATH", "HOME")},
        capture_output=True,
        text=True,
    )
    assert backfill.returncode == 0, backfill.stdout + backfill.stderr
    rows = service.query(
        'SELECT count(*) FROM deliveries WHERE published_at IS NOT NULL AND "timestamp" < :end',
        end=datetime.combine(YESTERDAY, datetime.min.time(), UTC) + timedelta(hours=2),
    )
    assert rows == [(2,)]
    assert service.interrupt() == 0
