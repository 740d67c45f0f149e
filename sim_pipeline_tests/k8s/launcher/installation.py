"""The pipeline as the overlay `local` installs it, with servers of the tests behind it.

Code location and runs are processes of their own, with the variables and files that their pods
would get. Daemon and webserver are parts of the test's process: what they do at a tick, a look or
a click is done when the test says so, by Dagster's own code.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple

import dagster as dg
import sqlalchemy as sa
from dagster._core.events import EngineEventData
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import (
    QueuedRunCoordinatorDaemon,
)
from dagster._serdes import serialize_value
from dagster_graphql.cli import execute_query

from sim_pipeline.config import Settings
from sim_pipeline.store.connection import Postgres
from sim_pipeline_tests.k8s.launcher.api_server import ApiServer, Cluster, Job
from sim_pipeline_tests.support.waiting import wait_until

MODELS = ("GPT-4o", "Llama-3.1-8B")

_LAUNCH_BACKFILL = """
mutation ($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
  }
}
"""
_TERMINATE = """
mutation ($run: String!) {
  terminateRun(runId: $run) {
    __typename
    ... on TerminateRunFailure { message }
  }
}
"""

_logger = logging.getLogger(__name__)


class Stored(NamedTuple):
    """What is stored of some windows.

    Attributes:
        rows: of results: four a window.
        windows: in the ledger of deliveries.
        published: of these.
    """

    rows: int
    windows: int
    published: int


@dataclass
class Installation:
    """The pipeline in a cluster.

    Attributes:
        cluster: where it is.
        api_server: through which it is reached.
        daemon: the daemon's part of Dagster, with the rights of its ServiceAccount.
        webserver: the webserver's, with those of its own.
        settings: those of a run.
        results: the database that runs write to.
    """

    cluster: Cluster
    api_server: ApiServer
    daemon: WorkspaceProcessContext
    webserver: WorkspaceProcessContext
    settings: Settings
    results: Postgres

    @property
    def instance(self) -> dg.DagsterInstance:
        return self.daemon.instance

    def request(
        self, days: Sequence[date], *models: str, tags: dict[str, str] | None = None
    ) -> list[dg.DagsterRun]:
        """Backfill some days of some models in the UI; return the runs that the daemon queues."""
        keys = [f"{day.isoformat()}|{model}" for day in days for model in models]
        assets = [{"path": [name]} for name in ("metric_frames", "benchmark_feed")]
        answer = self._ask(
            _LAUNCH_BACKFILL,
            params={
                "assetSelection": assets,
                "partitionNames": keys,
                "tags": [{"key": key, "value": value} for key, value in (tags or {}).items()],
            },
        )
        backfill = answer["launchPartitionBackfill"]["backfillId"]
        _do(execute_backfill_iteration(self.daemon, _logger))
        return list(
            self.instance.get_runs(
                dg.RunsFilter(
                    tags={"dagster/backfill": backfill}, statuses=[dg.DagsterRunStatus.QUEUED]
                )
            )
        )

    def look_at_queue(self) -> None:
        """Have the daemon launch what is queued; an error of a run is that run's."""
        _do(QueuedRunCoordinatorDaemon(interval_seconds=1).run_iteration(self.daemon))

    def launch(self, days: Sequence[date], *models: str) -> list[Job]:
        """Backfill some days of some models in the UI; return the Jobs that are made for it."""
        runs = {run.run_id for run in self.request(days, *models)}
        self.look_at_queue()
        return [job for job in self.cluster.arrived if job.run_id in runs]

    def monitor(self) -> None:
        """Have the daemon look after the runs under way."""
        _do(execute_run_monitoring_iteration(self.daemon, _logger))

    def terminate(self, run_id: str) -> dict[str, Any]:
        """Terminate a run in the UI; return the answer."""
        answer: dict[str, Any] = self._ask(_TERMINATE, run=run_id)["terminateRun"]
        return answer

    def run(self, run_id: str) -> dg.DagsterRun:
        """Return a run as Dagster's storage has it now."""
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run

    def status(self, run_id: str) -> str:
        return self.run(run_id).status.value

    def said(self, run_id: str) -> str:
        """Return all that is kept of a run's events, errors and their traces included."""
        return "\n".join(serialize_value(one) for one in self.instance.all_logs(run_id))

    def errors(self, run_id: str) -> list[str]:
        """Return the messages of the errors that a run's page shows, without their traces."""
        events = [entry.dagster_event for entry in self.instance.all_logs(run_id)]
        data = [event.event_specific_data for event in events if event is not None]
        return [one.error.message for one in data if isinstance(one, EngineEventData) and one.error]

    def messages(self, run_id: str, kind: dg.DagsterEventType) -> list[str]:
        """Return what a run's events of a kind say."""
        events = [entry.dagster_event for entry in self.instance.all_logs(run_id, of_type=kind)]
        return [event.message or "" for event in events if event is not None]

    def query(self, statement: str, **parameters: Any) -> list[Any]:
        with self.results.engine.connect() as connection:
            return list(connection.execute(sa.text(statement), parameters))

    def stored(self, day: date) -> Stored:
        """Count what the database holds of a day."""
        since, until = (
            datetime.combine(day + timedelta(days=days), time(), UTC) for days in (0, 1)
        )
        span = """WHERE "timestamp" >= :since AND "timestamp" < :until"""
        (counts,) = self.query(
            f"""
            SELECT (SELECT count(*) FROM simulation_results {span}),
                   (SELECT count(*) FROM deliveries {span}),
                   (SELECT count(published_at) FROM deliveries {span})
            """,
            since=since,
            until=until,
        )
        return Stored(*counts)

    @contextmanager
    def nothing_written(self) -> Iterator[Callable[[], None]]:
        """Let nobody write results while the context lasts; gives what waits for one who tries."""
        blocked = """
            SELECT 1 FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'
        """
        with self.results.engine.begin() as connection:
            connection.execute(sa.text("LOCK TABLE simulation_results IN SHARE MODE"))
            yield lambda: wait_until(
                lambda: bool(self.query(blocked)), "a run to write", seconds=120
            )

    def _ask(self, query: str, **variables: Any) -> dict[str, Any]:
        answer = execute_query(self.webserver, query, variables)
        assert "errors" not in answer, answer["errors"]
        data: dict[str, Any] = answer["data"]
        return data


def _do(iteration: Iterable[Any]) -> None:
    """Go through what a daemon does at once; none of it may fail."""
    assert [error for error in iteration if error is not None] == []
