"""The commands of docs/dagster.md that need no UI and no daemon, and what `dg` reads."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import uuid
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa

from sim_pipeline.config import Settings
from sim_pipeline.connections import results_database
from sim_pipeline.dagster_instance.environment import dagster_home
from sim_pipeline.dagster_instance.lifecycle import configure_instance, migrate_instance
from sim_pipeline.dagster_instance.run_tags import (
    BACKFILL_QUEUE,
    OTHER_QUEUE,
    QUEUE_TAG,
    RANGE_END_TAG,
    RANGE_START_TAG,
)
from sim_pipeline.local_servers.postgres import LocalPostgres

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "dagster.md").read_text(encoding="utf-8")
SECTIONS = {
    section.partition("\n")[0]: section.partition("\n")[2] for section in PAGE.split("\n## ")[1:]
}

Shell = Callable[..., "subprocess.CompletedProcess[str]"]


def blocks(title: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", SECTIONS[title], flags=re.DOTALL)


@pytest.fixture
def checkout(
    settings: Settings,  # noqa: ARG001 - needed for its effect
    postgres_server: LocalPostgres,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A directory as `make run` leaves it, without its processes."""
    database = f"dagster_{uuid.uuid4().hex}"
    postgres_server.ensure_database(database)
    monkeypatch.setenv("DAGSTER_POSTGRES_DB", database)
    for name in ("pyproject.toml", "dagster.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    home = dagster_home(tmp_path / ".local")
    configure_instance(home, ROOT / "dagster.yaml")
    with monkeypatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(home))
        migrate_instance()
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    return tmp_path


@pytest.fixture
def shell(checkout: Path) -> Shell:
    """Run a script in the documented shell; return what it printed."""

    def run(script: str, *, status: int = 0) -> "subprocess.CompletedProcess[str]":
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [sys.executable, "-m", "sim_pipeline", "exec", "--", "sh", "-ec", script],
            cwd=checkout,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def service_instance(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("DAGSTER_HOME", str(dagster_home(checkout / ".local")))
    with dg.DagsterInstance.get() as instance:
        yield instance


def test_listing_commands(shell: Shell) -> None:
    _, commands = blocks("A shell for Dagster's commands", "sh")

    done = shell(commands)

    assert "model_comparison" in done.stdout
    assert "Job: simulation" in done.stdout
    assert "Schedule: simulation_schedule [RUNNING]" in done.stdout
    assert "BetaWarning" not in done.stderr


def test_documented_runs_are_in_the_service(
    shell: Shell, settings: Settings, service_instance: dg.DagsterInstance
) -> None:
    (commands,) = blocks("Run something", "sh")

    shell(commands)

    comparison, ended = service_instance.get_runs(
        dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS])
    )
    assert comparison.asset_selection == {dg.AssetKey("model_comparison")}
    assert ended.tags["dagster/partition"] == "2026-11-20|GPT-4o"
    assert QUEUE_TAG not in ended.tags
    with results_database(settings).engine.connect() as connection:
        delivered = sa.text("SELECT count(published_at) FROM deliveries")
        assert connection.scalar(delivered) == 24
    queued = service_instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]))
    *backfill, manual = queued
    assert manual.tags[QUEUE_TAG] == OTHER_QUEUE
    assert manual.tags[RANGE_START_TAG] == "2026-11-21|GPT-4o"
    assert manual.tags[RANGE_END_TAG] == "2026-11-22|GPT-4o"
    assert {run.tags["dagster/partition"] for run in backfill} == {
        "2026-11-23|GPT-4o",
        "2026-11-24|GPT-4o",
    }
    assert {run.tags[QUEUE_TAG] for run in backfill} == {BACKFILL_QUEUE}


def test_definitions_are_validated_beside_the_service(shell: Shell) -> None:
    shell("dagster definitions validate")


def test_dev_refuses_the_instance_of_the_service(shell: Shell) -> None:
    done = shell("dagster dev --port 1", status=1)

    assert "set DAGSTER_HOME to the path of an empty directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_dev_refuses_the_configuration_of_this_folder(shell: Shell) -> None:
    done = shell("unset DAGSTER_HOME; dagster dev --port 1", status=1)

    assert "set DAGSTER_HOME to the path of an empty directory" in done.stderr


def test_schedules_are_stopped_in_dev(shell: Shell) -> None:
    done = shell(
        "mkdir .local/dev; export DAGSTER_HOME=$PWD/.local/dev DAGSTER_IS_DEV_CLI=1\n"
        "dagster schedule list"
    )

    assert done.stdout.count("[STOPPED]") == 3


def test_notebook_example(shell: Shell) -> None:
    (code,) = blocks("In a notebook", "python")

    done = shell(f"python - <<'END'\n{code}END\n")

    assert done.stdout == "0 partitions of metric_frames are materialized\n"


def test_dg_and_dagster_read_the_same_code_location() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    project = tool["dg"]["project"]

    assert tool["dg"]["directory_type"] == "project"
    assert project.keys() == {"root_module", "code_location_target_module", "code_location_name"}
    assert project["root_module"] == "sim_pipeline"
    assert {
        "module_name": project["code_location_target_module"],
        "code_location_name": project["code_location_name"],
    } == tool["dagster"]
    assert isinstance(import_module(tool["dagster"]["module_name"]).defs, dg.Definitions)
