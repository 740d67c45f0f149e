"""The backfill command against the whole service: interrupted, resumed, repeated."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sim_pipeline.dagster_instance.run_tags import REQUEST_TAG
from sim_pipeline_tests.support.assertions import wait_until
from sim_pipeline_tests.support.queue_reader import drain
from sim_pipeline_tests.support.whole_service import Service, start_service, write_env_file

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("clean_environment")]

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
            # Six runs, four of them at a time: when the first has stored windows, two are queued.
            "BACKFILL_DAYS_PER_RUN": 1,
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


def backfills(service: Service) -> list[Any]:
    answer = service.graphql(
        "{ partitionBackfillsOrError { ... on PartitionBackfills"
        " { results { id status tags { key } } } } }"
    )
    found: list[Any] = answer["partitionBackfillsOrError"]["results"]
    return found


def test_interrupted_backfill_resumes(
    service: Service,
) -> None:
    service.read_until("Ready.")

    interrupted = start_backfill()
    wait_until(lambda: in_span(service, "count(*)")[0][0] > 0, "a window", seconds=300)
    os.killpg(interrupted.pid, signal.SIGINT)
    status, output = finish(interrupted)
    assert status == 130, output
    assert "Run the same command again to continue" in output
    (canceled,) = backfills(service)
    assert canceled["status"] == "CANCELED"
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
    first, second = backfills(service)
    assert {first["status"], second["status"]} == {"CANCELED", "COMPLETED_SUCCESS"}
    assert all(REQUEST_TAG in {tag["key"] for tag in one["tags"]} for one in (first, second))
    assert in_span(service, "count(*), count(published_at)") == [(WINDOWS, WINDOWS)]
    assert len(rows(service)) == 4 * WINDOWS
    # The rows keep their ids: nothing was written twice.
    assert stored_first <= rows(service)

    status, output = finish(start_backfill())
    assert status == 0
    assert f"Nothing to do: all {WINDOWS:,} windows are stored and published" in output
    assert len(backfills(service)) == 2

    messages = [
        message
        for message in drain(service.settings)
        if FROM <= datetime.fromisoformat(message.body[0]["timestamp"]) < TO
    ]
    assert len({message.message_id for message in messages}) == WINDOWS
    assert service.interrupt() == 0


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
