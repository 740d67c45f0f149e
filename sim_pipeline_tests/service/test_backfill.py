"""The backfill command against the whole service: interrupted, killed, resumed, failed."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from sim_pipeline.backfill.dagster_client import DagsterClient
from sim_pipeline.connections import results_database
from sim_pipeline.dagster_instance.run_tags import BACKFILL_QUEUE, QUEUE_TAG, REQUEST_TAG
from sim_pipeline_tests.support.assertions import wait_until
from sim_pipeline_tests.support.queue_reader import drain
from sim_pipeline_tests.support.whole_service import Service, start_service, write_env_file

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("clean_environment")]

FORK_SERVER = "from multiprocessing.forkserver import main"
MODELS = ("GPT-4o", "Llama-3.1-8B")
DAYS = 3
SINCE = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=9)
# Not at midnight, so that the backfill needs only a part of the first partition.
FROM, TO = SINCE + timedelta(hours=6), SINCE + timedelta(days=DAYS)
INTERVAL = timedelta(minutes=10)
WINDOWS = len(MODELS) * ((TO - FROM) // INTERVAL)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory whose `.env` gives a service its own servers on free ports."""
    write_env_file(
        tmp_path,
        {
            "LLM_MODELS_STR": ",".join(MODELS),
            "SIMULATION_INTERVAL": INTERVAL.seconds,
            "SIMULATION_START": SINCE.isoformat(),
            # Keeps ticks away from the backfill's windows.
            "CATCH_UP_HOURS": 0,
            # A window takes so long that two runs are worthwhile, and each stores several batches.
            "NUM_DATA_POINTS": 1000,
        },
    )
    return tmp_path


@pytest.fixture
def service(directory: Path) -> Iterator[Service]:
    service = start_service(directory)
    yield service
    if service.process.poll() is None:
        service.interrupt()


def start_backfill() -> subprocess.Popen[str]:
    arguments = ["--from", FROM.isoformat(), "--to", TO.isoformat(), "--models", ",".join(MODELS)]
    return subprocess.Popen(
        [sys.executable, "-m", "sim_pipeline", "backfill", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(backfill: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = backfill.communicate()
    return backfill.returncode, output


def in_span(service: Service, columns: str) -> list[Any]:
    return service.query(
        f'SELECT {columns} FROM deliveries WHERE "timestamp" >= :since AND "timestamp" < :until',
        since=FROM,
        until=TO,
    )


def rows(service: Service) -> set[Any]:
    return set(
        service.query(
            'SELECT id, llm_name, metric, "timestamp" FROM simulation_results'
            ' WHERE "timestamp" < :until',
            until=TO,
        )
    )


def backfill_runs(service: Service) -> list[dict[str, Any]]:
    """Return the runs of the command, the newest first, with their tags as a dictionary."""
    runs = [
        {**run, "tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in service.runs()
    ]
    return [run for run in runs if REQUEST_TAG in run["tags"]]


def await_a_window(service: Service) -> None:
    wait_until(lambda: in_span(service, "count(*)")[0][0] > 0, "a window", seconds=300)


@contextlib.contextmanager
def writes_blocked(service: Service) -> Iterator[None]:
    """Let runs wait before they store their next batch, so that they cannot end meanwhile."""
    with results_database(service.settings).engine.begin() as connection:
        connection.execute(sa.text("LOCK TABLE simulation_results IN SHARE ROW EXCLUSIVE MODE"))
        yield


def assert_complete(service: Service) -> None:
    """Check that every window is stored, published and materialized, and was sent once."""
    assert in_span(service, "count(*), count(published_at)") == [(WINDOWS, WINDOWS)]
    assert len(rows(service)) == 4 * WINDOWS
    materialized = DagsterClient(service.settings.ui_url).materialized()
    assert materialized >= {
        (model, FROM.date() + timedelta(days=day)) for model in MODELS for day in range(DAYS)
    }
    messages = [
        message
        for message in drain(service.settings)
        if FROM <= datetime.fromisoformat(message.body[0]["timestamp"]) < TO
    ]
    assert len({message.message_id for message in messages}) == WINDOWS


def test_interrupted_backfill_resumes(service: Service) -> None:
    service.read_until("Ready.")

    interrupted = start_backfill()
    await_a_window(service)
    with writes_blocked(service):
        os.killpg(interrupted.pid, signal.SIGINT)
        wait_until(
            lambda: {run["status"] for run in backfill_runs(service)} <= {"CANCELING", "CANCELED"},
            "the cancellation of both runs",
            seconds=60,
        )
    status, output = finish(interrupted)
    assert status == 130, output
    assert "Run the same command again to continue" in output
    canceled = backfill_runs(service)
    assert len(canceled) == 2
    assert "CANCELED" in {run["status"] for run in canceled} <= {"CANCELED", "SUCCESS"}
    stored_first = rows(service)
    assert 0 < len(stored_first) < 4 * WINDOWS

    killed = start_backfill()
    assert killed.stdout is not None
    for line in killed.stdout:
        if "Launched" in line:
            break
    killed.kill()
    finish(killed)

    status, output = finish(start_backfill())
    assert status == 0, output
    assert "already in progress" in output
    assert "Simulated" in output
    runs = backfill_runs(service)
    assert {run["status"] for run in runs[: -len(canceled)]} == {"SUCCESS"}
    assert {run["tags"][QUEUE_TAG] for run in runs} == {BACKFILL_QUEUE}
    # The rows keep their ids: nothing was written twice.
    assert stored_first <= rows(service)

    status, output = finish(start_backfill())
    assert status == 0
    assert f"Nothing to do: all {WINDOWS:,} windows are stored and published" in output
    assert len(backfill_runs(service)) == len(runs)

    assert_complete(service)
    assert service.interrupt() == 0


@pytest.mark.parametrize("killed", ["runs", "service"])
def test_killed_processes_are_made_up_for(
    service: Service, directory: Path, request: pytest.FixtureRequest, killed: str
) -> None:
    service.read_until("Ready.")
    backfill = start_backfill()
    await_a_window(service)
    workers = [process for process in service.processes() if is_run_worker(process)]
    if killed == "service":
        service.process.kill()
        service.process.wait()
        workers = [process for process in service.processes() if "python" in process.name()]
        workers = [process for process in workers if process.pid != backfill.pid]
    assert workers
    for process in workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    stored_first = rows(service)
    assert len(stored_first) < 4 * WINDOWS
    if killed == "service":
        service = start_service(directory)
        request.addfinalizer(service.interrupt)
        service.read_until("Ready.")

    # The command follows the retries.
    status, output = finish(backfill)
    assert status == 0, output
    runs = backfill_runs(service)
    assert "FAILURE" in {run["status"] for run in runs}
    assert runs[0]["tags"]["dagster/retry_number"] == "1"
    assert stored_first <= rows(service)
    assert_complete(service)


def is_run_worker(process: psutil.Process) -> bool:
    """Return whether a process was forked by a code server's fork server."""
    with contextlib.suppress(psutil.Error):
        family = (process, process.parent())
        return all(member and FORK_SERVER in " ".join(member.cmdline()) for member in family)
    return False


def test_failed_runs_are_explained(service: Service) -> None:
    service.read_until("Ready.")
    engine = results_database(service.settings).engine
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE request_counts RENAME TO away"))
    status, output = finish(start_backfill())
    assert status == 1, output
    assert f"{WINDOWS:,} windows not published yet" in output
    assert "2 of 2 runs failed or were canceled" in output
    assert "Failed: " in output
    assert 'relation "request_counts" does not exist' in output
    for run in backfill_runs(service):
        assert f"see {service.settings.ui_url}/runs/{run['runId']}" in output

    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE away RENAME TO request_counts"))
    status, output = finish(start_backfill())
    assert status == 0, output
    assert_complete(service)


def test_backfill_without_a_service_is_one_line(directory: Path) -> None:  # noqa: ARG001
    status, output = finish(start_backfill())
    assert status == 1
    (line,) = output.splitlines()
    assert "No Dagster web server answers at http://127.0.0.1:" in line
    assert "make run" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--from", "soon", "--to", "2026-01-02"], "FROM='soon': allowed is an ISO 8601"),
        (
            ["--from", SINCE.isoformat(), "--to", TO.isoformat(), "--models", "X"],
            "unknown models: 'X'",
        ),
        (["--to", "soon"], "TO='soon': allowed is an ISO 8601"),
    ],
)
def test_invalid_argument_is_rejected(
    directory: Path,  # noqa: ARG001 - for the settings in it
    arguments: list[str],
    words: str,
) -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "sim_pipeline", "backfill", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 2
    assert words in completed.stderr
