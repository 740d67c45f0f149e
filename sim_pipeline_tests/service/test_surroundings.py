"""The whole service on an unusual machine: its path, proxies, locale, time zone and TMPDIR."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from sim_pipeline.connections import results_database
from sim_pipeline.dagster_instance.run_tags import range_tags
from sim_pipeline.local_servers.postgres import WHEEL
from sim_pipeline.orchestration.jobs.simulation import SIMULATION_JOB
from sim_pipeline_tests.support.assertions import wait_until
from sim_pipeline_tests.support.queue_reader import drain
from sim_pipeline_tests.support.whole_service import Service, start_service, write_env_file

pytestmark = pytest.mark.timeout(400)

PROJECT = Path(__file__).parents[2]
# Like the home folders of some users, with characters of shells, INI files and URLs.
ODD_PATH = Path("Документы 100% $x") / "it's #1"
MODELS = ("GPT-4o ($2.50/$10)", "通义千问-72B", "<img src=x onerror=alert(1)>", "__init__")
# Nothing listens there, so that every request through a proxy fails.
DEAD_PROXY = "http://127.0.0.1:9"
EAST = "Asia/Shanghai"
YESTERDAY = datetime.now(UTC).date() - timedelta(days=1)


@pytest.fixture
def checkout(
    tmp_path: Path,
    clean_environment: None,  # noqa: ARG001 - for what it clears
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A checkout with its own `.env` and `.venv`, PostgreSQL's programs included."""
    checkout = tmp_path / ODD_PATH
    for name in ("sim_pipeline", "migrations"):
        shutil.copytree(PROJECT / name, checkout / name, ignore=shutil.ignore_patterns("__pyc*"))
    for name in ("dagster.yaml", "workspace.yaml", "pyproject.toml"):
        shutil.copy(PROJECT / name, checkout)
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(checkout / ".venv")], check=True
    )
    (packages,) = (checkout / ".venv").glob("lib/python*/site-packages")
    installed = Path(sysconfig.get_path("purelib"))
    for part in installed.glob(f"{WHEEL}*"):
        shutil.copytree(part, packages / part.name, symlinks=True)
    (packages / "odd.pth").write_text(f"{checkout}\n{installed}\n", encoding="utf-8")
    write_env_file(
        checkout,
        {
            "LLM_MODELS_STR": ",".join(MODELS),
            "SIMULATION_INTERVAL": 3600,
            "CATCH_UP_HOURS": 0,
            "UI_PATH_PREFIX": "/odd/path",
        },
    )
    monkeypatch.chdir(checkout)
    return checkout


@pytest.fixture
def surroundings(tmp_path: Path) -> Mapping[str, str]:
    """An environment with dead proxies, a time zone east of UTC, the C locale and a long TMPDIR."""
    temporary = tmp_path / ("t" * 80)
    temporary.mkdir()
    proxies = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ["HOME"],
        "TMPDIR": str(temporary),
        **dict.fromkeys(proxies, DEAD_PROXY),
        **dict.fromkeys(map(str.upper, proxies), DEAD_PROXY),
        "TZ": EAST,
        "PGTZ": EAST,
        "PGHOSTADDR": "192.0.2.1",
        "LANG": "C",
    }


@pytest.fixture
def service(checkout: Path, surroundings: Mapping[str, str]) -> Iterator[Service]:
    python = checkout / ".venv" / "bin" / "python"
    service = start_service(checkout, python, surroundings)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.interrupt()


def test_partition_materializes_in_odd_surroundings(service: Service) -> None:
    service.read_until("Ready.")
    set_time_zone(service)
    tags = range_tags(MODELS, YESTERDAY, YESTERDAY)
    launched = service.graphql(
        "mutation ($tags: [ExecutionTag!]!) { launchRun(executionParams: {selector: {"
        'repositoryName: "__repository__", repositoryLocationName: "sim_pipeline",'
        f' jobName: "{SIMULATION_JOB}"}}, executionMetadata: {{tags: $tags}}}})'
        " { __typename ... on LaunchRunSuccess { run { runId } } } }",
        tags=[{"key": key, "value": value} for key, value in tags.items()],
    )["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    run = launched["run"]["runId"]

    def status() -> str:
        return str(next(one["status"] for one in service.runs() if one["runId"] == run))

    wait_until(lambda: status() in ("SUCCESS", "FAILURE"), "the run to end", seconds=200)
    assert status() == "SUCCESS", "".join(service.lines)
    rows = service.query(
        "SELECT llm_name, count(*) FROM simulation_results"
        " WHERE (timestamp AT TIME ZONE 'UTC')::date = :day GROUP BY 1",
        day=YESTERDAY,
    )
    assert dict(map(tuple, rows)) == dict.fromkeys(MODELS, 24 * 4)
    sent = {
        (message.body[0]["llm_name"], message.body[0]["timestamp"])
        for message in drain(service.settings)
    }
    of_the_day = {name for name, label in sent if label.startswith(YESTERDAY.isoformat())}
    assert of_the_day == set(MODELS)
    assert_times_are_in_utc(service)
    assert service.interrupt() == 0
    assert "Traceback" not in "".join(service.lines)


def set_time_zone(service: Service) -> None:
    """Set the role's time zone, as an administrator could."""
    with results_database(service.settings).engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(
            f"ALTER ROLE \"{service.settings.postgres_user}\" SET timezone = '{EAST}'"
        )


def assert_times_are_in_utc(service: Service) -> None:
    """Check Dagster's tables, whose times have no zone and tell it the age of a run."""
    dagster = results_database(service.settings).url.set(
        database=service.settings.dagster_postgres_db
    )
    with sa.create_engine(dagster, poolclass=sa.NullPool).connect() as connection:
        ages = connection.execute(
            sa.text(
                "SELECT now() AT TIME ZONE 'UTC' - create_timestamp,"
                " now() AT TIME ZONE 'UTC' - update_timestamp FROM runs"
            )
        ).all()
    assert ages
    for row in ages:
        for age in row:
            assert timedelta(0) <= age < timedelta(minutes=10)
