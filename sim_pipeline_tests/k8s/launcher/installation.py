"""The pipeline as the overlay `local` installs it, on the servers of the tests.

Code location and runs are separate processes with the variables and files of their pods. Daemon and
webserver run in the test's process: the test calls Dagster's own code for each daemon iteration and
each action in the UI.
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
from sim_pipeline_tests.support.assertions import wait_until

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
    """Counts of stored data.

    Attributes:
        rows: rows of results, four for each window.
        windows: windows in the ledger.
        published: published windows in the ledger.
    """

    rows: int
    windows: int
    published: int


@dataclass
class Installation:
    """The pipeline in a cluster.

    Attributes:
        cluster: the cluster that it runs in.
        api_server: the cluster's API server.
        daemon: the daemon's workspace context, with the rights of its ServiceAccount.
        webserver: the webserver's workspace context, with the rights of its ServiceAccount.
        settings: the settings of a run.
        results: the results database.
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
        """Launch a backfill through the UI's API; return the runs that the daemon queues."""
        keys = [f"{day.isoformat()}|{model}" for day in days for model in models]
        assets = [{"path": [name]} for name in ("metric_frames", "benchmark_feed")]
        answer = self._query_ui(
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

    def launch_queued_runs(self) -> None:
        """Run one iteration of the daemon's queue; launch errors become errors of the runs."""
        _do(QueuedRunCoordinatorDaemon(interval_seconds=1).run_iteration(self.daemon))

    def launch(self, days: Sequence[date], *models: str) -> list[Job]:
        """Launch a backfill through the UI's API; return its Jobs."""
        runs = {run.run_id for run in self.request(days, *models)}
        self.launch_queued_runs()
        return [job for job in self.cluster.created_jobs if job.run_id in runs]

    def monitor(self) -> None:
        """Run one iteration of the daemon's run monitoring."""
        _do(execute_run_monitoring_iteration(self.daemon, _logger))

    def terminate(self, run_id: str) -> dict[str, Any]:
        """Terminate a run through the UI's API; return the answer."""
        answer: dict[str, Any] = self._query_ui(_TERMINATE, run=run_id)["terminateRun"]
        return answer

    def run(self, run_id: str) -> dg.DagsterRun:
        """Return the current state of a run from Dagster's storage."""
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run

    def status(self, run_id: str) -> str:
        return self.run(run_id).status.value

    def event_log(self, run_id: str) -> str:
        """Return all stored events of a run, with errors and their tracebacks."""
        return "\n".join(serialize_value(entry) for entry in self.instance.all_logs(run_id))

    def errors(self, run_id: str) -> list[str]:
        """Return the error messages that a run's page displays, without tracebacks."""
        events = [entry.dagster_event for entry in self.instance.all_logs(run_id)]
        data = [event.event_specific_data for event in events if event is not None]
        return [
            each.error.message for each in data if isinstance(each, EngineEventData) and each.error
        ]

    def messages(self, run_id: str, kind: dg.DagsterEventType) -> list[str]:
        """Return the messages of a run's events of one type."""
        events = [entry.dagster_event for entry in self.instance.all_logs(run_id, of_type=kind)]
        return [event.message or "" for event in events if event is not None]

    def query(self, statement: str, **parameters: Any) -> list[Any]:
        with self.results.engine.connect() as connection:
            return list(connection.execute(sa.text(statement), parameters))

    def stored(self, day: date) -> Stored:
        """Count the stored rows and windows of a day."""
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
    def writes_blocked(self) -> Iterator[Callable[[], None]]:
        """Block writes of results while the context lasts; yield a function that waits for one."""
        blocked = """
            SELECT 1 FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'
        """
        with self.results.engine.begin() as connection:
            connection.execute(sa.text("LOCK TABLE simulation_results IN SHARE MODE"))
            yield lambda: wait_until(
                lambda: bool(self.query(blocked)), "a run to write", seconds=120
            )

    def _query_ui(self, query: str, **variables: Any) -> dict[str, Any]:
        answer = execute_query(self.webserver, query, variables)
        assert "errors" not in answer, answer["errors"]
        data: dict[str, Any] = answer["data"]
        return data


def _do(iteration: Iterable[Any]) -> None:
    """Run a daemon iteration to its end; fail if it yields an error."""
    assert [error for error in iteration if error is not None] == []
