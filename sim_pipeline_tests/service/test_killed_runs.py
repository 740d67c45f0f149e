"""Runs whose processes are killed are detected and finished, and no work is done twice.

The whole service runs with a scheduled run and a backfill in progress. Dagster's storage is
unavailable when the processes are killed, so that the code server cannot report their death.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from sim_pipeline.connections import results_database
from sim_pipeline.dagster_instance.run_tags import WINDOWS_TAG
from sim_pipeline_tests.support.assertions import wait_until
from sim_pipeline_tests.support.queue_reader import drain
from sim_pipeline_tests.support.whole_service import Service, start_service, write_env_file

pytestmark = pytest.mark.timeout(600)

MODELS = ("GPT-4o", "Llama-3.1-8B")
INTERVAL = timedelta(seconds=30)
# A day before the schedule's catch-up range; the test backfills it.
DAY = datetime.combine(datetime.now(UTC).date() - timedelta(days=3), time(), UTC)
BACKFILLED = (DAY, DAY + timedelta(days=1))
# The catch-up range moves on with each tick. This is more than it moves during the test.
CATCH_UP_MOVES = timedelta(minutes=30)
PARENT, BACKFILL = "dagster/parent_run_id", "dagster/backfill"

LAUNCH_BACKFILL = """
mutation ($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
  }
}
"""

BACKFILL_STATUS = """
query ($backfill: String!) {
  partitionBackfillOrError(backfillId: $backfill) { ... on PartitionBackfill { status } }
}
"""


@pytest.fixture
def directory(
    tmp_path: Path,
    clean_environment: None,  # noqa: ARG001 - for what it clears
) -> Path:
    """A directory whose `.env` gives a service its own servers on free ports.

    A window has 200 values per metric, so that a run stores several batches.
    """
    write_env_file(
        tmp_path,
        {
            "LLM_MODELS_STR": ",".join(MODELS),
            "SIMULATION_INTERVAL": INTERVAL.seconds,
            "SIMULATION_START": DAY.isoformat(),
            "NUM_DATA_POINTS": 200,
            "CATCH_UP_HOURS": 10,
        },
    )
    return tmp_path


@pytest.fixture
def start(directory: Path) -> Iterator[Callable[[], Service]]:
    started: list[Service] = []

    def start() -> Service:
        service = start_service(directory)
        started.append(service)
        service.read_until("Ready.")
        return service

    yield start
    for service in started:
        if service.process.poll() is None:
            service.interrupt()
        for process in service.processes():  # of a killed service that was not started again
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def test_killed_runs_are_finished_exactly_once(
    start: Callable[[], Service],
) -> None:
    service = start()
    runs = Runs(service)
    remove_windows(service)  # a tick repairs what the first start simulated
    backfill = launch_backfill(service)

    # A scheduled run and a run of the backfill are suspended after their first batch.
    held: dict[str, psutil.Process] = {}
    wait_until(
        lambda: runs.suspend_runs_with_a_batch(held), "two runs to store a batch", seconds=180
    )
    (of_the_tick,) = (run for run in held if BACKFILL not in runs.tags(run))
    kept, before = rows(service), stored(service, *BACKFILLED)
    with dagster_storage_away(service):
        for process in held.values():
            process.kill()
        service.read_until("Exception in thread grpc-server-cleanup")
    wait_until(
        lambda: {runs.status(run) for run in held} == {"FAILURE"}, "them to be found", seconds=120
    )
    for run, process in held.items():
        (failure,) = runs.messages(run, "PIPELINE_FAILURE")
        assert f"FAILED: 'The process of the run (pid {process.pid}) is gone'" in failure

    # Dagster retries the backfill's run. Before it ends, all processes but the servers are killed.
    wait_until(lambda: stored(service, *BACKFILLED) > before, "another batch", seconds=120)
    kill_all_but_the_servers(service)
    assert runs.parents() == set(held) - {of_the_tick}
    assert kept.items() <= rows(service).items()
    kept = rows(service)

    service = start()
    wait_until(lambda: done(service, backfill), "the backfill", seconds=240)
    since, until = map(datetime.fromisoformat, runs.tags(of_the_tick)[WINDOWS_TAG].split("/"))
    since += CATCH_UP_MOVES
    messages: dict[str, list[Any]] = {}
    await_delivery(service, *BACKFILLED)
    await_delivery(service, since, until)
    # Dagster does not retry scheduled runs: the next tick replaces them. Nothing is written twice.
    assert of_the_tick not in runs.parents()
    assert kept.items() <= rows(service).items()
    for message in drain(service.settings):
        assert messages.setdefault(message.message_id, message.body) == message.body
    assert messages.keys() >= delivered(service, *BACKFILLED) | delivered(service, since, until)
    windows_sent = [(body[0]["llm_name"], body[0]["timestamp"]) for body in messages.values()]
    assert len(windows_sent) == len(set(windows_sent))


class Runs:
    """The runs in Dagster's storage."""

    def __init__(self, service: Service) -> None:
        self._service = service
        settings = service.settings
        self._engine = results_database(
            settings.model_copy(update={"postgres_db": settings.dagster_postgres_db})
        ).engine

    def _rows(self, statement: str, **parameters: Any) -> list[Any]:
        with self._engine.connect() as connection:
            return list(connection.execute(sa.text(statement), parameters))

    def tags(self, run: str) -> dict[str, str]:
        return dict(self._rows("SELECT key, value FROM run_tags WHERE run_id = :run", run=run))

    def status(self, run: str) -> str:
        return str(self._rows("SELECT status FROM runs WHERE run_id = :run", run=run)[0][0])

    def messages(self, run: str, event: str) -> list[str]:
        found = self._rows(
            "SELECT event FROM event_logs WHERE run_id = :run AND dagster_event_type = :event"
            " ORDER BY id",
            run=run,
            event=event,
        )
        return [json.loads(row[0])["dagster_event"]["message"] for row in found]

    def parents(self) -> set[str]:
        """Return the ids of the runs that were retried."""
        return {
            row[0] for row in self._rows("SELECT value FROM run_tags WHERE key = :key", key=PARENT)
        }

    def process(self, run: str) -> psutil.Process:
        said = "".join(self.messages(run, "ENGINE_EVENT"))
        (pid,) = re.findall(r"Started process for run \(pid: (\d+)\)", said)
        return psutil.Process(int(pid))

    def suspend_runs_with_a_batch(self, held: dict[str, psutil.Process]) -> bool:
        """Suspend each run that has stored a batch; return whether two are suspended."""
        for (run,) in self._rows("SELECT run_id FROM runs WHERE status = 'STARTED'"):
            tags = self.tags(run)
            if run in held or not {BACKFILL, WINDOWS_TAG} & tags.keys():
                continue
            since, until = BACKFILLED
            if BACKFILL not in tags:
                since, until = map(datetime.fromisoformat, tags[WINDOWS_TAG].split("/"))
                if until - since < timedelta(hours=1):  # of a tick before the removal
                    continue
            if stored(self._service, since, until) > len(MODELS):
                held[run] = self.process(run)
                held[run].suspend()
        return len(held) == 2


def remove_windows(service: Service) -> None:
    with results_database(service.settings).engine.begin() as connection:
        connection.execute(
            sa.text("TRUNCATE simulation_results, request_counts, simulated_events, deliveries")
        )


def kill_all_but_the_servers(service: Service) -> None:
    service.process.kill()
    service.process.wait()
    for process in service.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name().startswith("python"):
                process.kill()


def launch_backfill(service: Service) -> str:
    """Launch a backfill of a day of both models; return its id."""
    keys = [f"{DAY.date().isoformat()}|{model}" for model in MODELS]
    assets = [{"path": [name]} for name in ("metric_frames", "benchmark_feed")]
    answer = service.graphql(
        LAUNCH_BACKFILL, params={"assetSelection": assets, "partitionNames": keys}
    )
    return str(answer["launchPartitionBackfill"]["backfillId"])


def done(service: Service, backfill: str) -> bool:
    """Return whether Dagster reports the backfill as complete."""
    answer = service.graphql(BACKFILL_STATUS, backfill=backfill)["partitionBackfillOrError"]
    assert answer["status"] in ("REQUESTED", "COMPLETED_SUCCESS")
    return bool(answer["status"] == "COMPLETED_SUCCESS")


@contextlib.contextmanager
def dagster_storage_away(service: Service) -> Iterator[None]:
    """Refuse connections to Dagster's database while the context lasts."""
    engine = results_database(service.settings).engine.execution_options(
        isolation_level="AUTOCOMMIT"
    )
    database = service.settings.dagster_postgres_db
    with engine.connect() as connection:
        connection.execute(sa.text(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false"))
        try:
            yield
        finally:
            connection.execute(sa.text(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true"))


def rows(service: Service) -> dict[int, tuple[str, str, datetime]]:
    """Return model, metric and timestamp of each row by its id."""
    found = service.query('SELECT id, llm_name, metric, "timestamp" FROM simulation_results')
    return {row[0]: (row[1], row[2], row[3]) for row in found}


def stored(
    service: Service,
    since: datetime,
    until: datetime,
) -> int:
    """Return the number of windows in the ledger."""
    found = service.query(
        """SELECT count(*) FROM deliveries WHERE "timestamp" >= :since AND "timestamp" < :until""",
        since=since,
        until=until,
    )
    return int(found[0][0])


def await_delivery(service: Service, since: datetime, until: datetime) -> None:
    """Wait until every window of both models is stored with four rows and delivered."""
    windows = len(MODELS) * ((until - since) // INTERVAL)
    wait_until(
        lambda: len(delivered(service, since, until)) == windows, "all to be delivered", seconds=150
    )


def delivered(service: Service, since: datetime, until: datetime) -> set[str]:
    """Return the message ids of delivered windows that have four rows."""
    found = service.query(
        """
        SELECT d.message_id FROM deliveries AS d
        JOIN simulation_results AS r USING (llm_name, "timestamp")
        WHERE d.published_at IS NOT NULL AND "timestamp" >= :since AND "timestamp" < :until
        GROUP BY d.message_id HAVING count(DISTINCT r.metric) = 4
        """,
        since=since,
        until=until,
    )
    return {str(row[0]) for row in found}
