"""Removal of a model from LLM_MODELS_STR during a backfill: the other models continue."""

import logging
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.definitions.partitions.subset import DefaultPartitionsSubset
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus, PartitionBackfill
from dagster._core.storage.tags import WILL_RETRY_TAG
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.backfill import execute_backfill_iteration
from dagster_graphql.cli import execute_query

from sim_pipeline.dagster_instance.removed_models import leave_out_removed_models
from sim_pipeline_tests.support.ports import free_port

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("clean_environment")]

START = datetime(2026, 11, 20, tzinfo=UTC)
LAUNCH = """
mutation ($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
  }
}
"""

UNREACHABLE_STORAGE = """
storage:
  custom:
    module: sim_pipeline.dagster_instance.storage
    class: BatchingPostgresStorage
    config:
      postgres_db: {{hostname: 127.0.0.1, port: {port}, username: u, password: p, db_name: d}}
      should_autocreate_tables: false
"""


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance whose runs stay queued."""
    queue = {
        "module": "sim_pipeline.dagster_instance.run_queue",
        "class": "FeedFirstRunCoordinator",
    }
    with dg.instance_for_test(overrides={"run_coordinator": queue}) as instance:
        yield instance


@contextmanager
def daemon(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, *models: str
) -> Iterator[WorkspaceProcessContext]:
    """The workspace of the daemon, with the pipeline of some models."""
    monkeypatch.setenv("LLM_MODELS_STR", ",".join(models))
    monkeypatch.setenv("SIMULATION_START", START.isoformat())
    target = ModuleTarget("sim_pipeline.definitions", None, str(Path.cwd()), "sim_pipeline")
    with WorkspaceProcessContext(instance, target) as context:
        yield context


def iterate(context: WorkspaceProcessContext) -> None:
    """Run one iteration of the daemon's backfill loop."""
    errors = list(execute_backfill_iteration(context, logging.getLogger(__name__)))
    assert not any(errors)


def launch(context: WorkspaceProcessContext, days: Sequence[date], *models: str) -> str:
    """Launch a backfill as the UI does, and queue its runs; return its id."""
    params: dict[str, Any] = {
        "assetSelection": [{"path": [name]} for name in ("metric_frames", "benchmark_feed")],
        "partitionNames": [f"{day.isoformat()}|{model}" for day in days for model in models],
        "tags": [{"key": "team", "value": "b"}],
        "title": "three days",
    }
    answer = execute_query(context, LAUNCH, {"params": params})
    iterate(context)
    return str(answer["data"]["launchPartitionBackfill"]["backfillId"])


def run_daemon_help() -> subprocess.CompletedProcess[str]:
    """Start the daemon's program, which ends after its preparations."""
    return subprocess.run(
        [sys.executable, "-m", "sim_pipeline.dagster_instance.daemon", "run", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )


def backfill(instance: dg.DagsterInstance, backfill_id: str) -> PartitionBackfill:
    found = instance.get_backfill(backfill_id)
    assert found is not None
    return found


def runs_of(instance: dg.DagsterInstance, backfill_id: str) -> dict[str, set[str]]:
    """Return the models of the runs of a backfill, by status."""
    found: dict[str, set[str]] = {}
    for run in instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": backfill_id})):
        ends = {value.partition("|")[2] for key, value in run.tags.items() if "_range_" in key}
        key = run.tags.get("dagster/partition", "").partition("|")[2]
        found.setdefault(run.status.value, set()).update(ends or {key})
    return found


# With more days than models, a run covers days of one model; otherwise it covers models of one day.
@pytest.mark.parametrize(("length", "removed"), [(4, "A"), (1, "A"), (1, "C")])
def test_other_models_continue(
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    length: int,
    removed: str,
) -> None:
    days = [START.date() + timedelta(days=day) for day in range(length)]
    with daemon(instance, monkeypatch, "A", "B", "C") as context:
        first = launch(context, days, "A", "B", "C")
    # One run died when the service stopped, and Dagster will retry it.
    died = instance.get_runs(limit=1)[0]
    instance.report_run_failed(died)
    instance.add_run_tags(died.run_id, {WILL_RETRY_TAG: "true"})

    left = [name for name in ("A", "B", "C") if name != removed]
    leave_out_removed_models(instance, left)
    canceled = backfill(instance, first)
    assert canceled.status is BulkActionStatus.CANCELED
    (other,) = instance.get_backfills(BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED]))
    assert canceled.error is not None
    assert canceled.error.message == (
        f"LLM_MODELS_STR no longer names '{removed}', so its partitions are left out;"
        f" backfill {other.backfill_id} continues with the other models"
    )
    assert caplog.messages == [f"Backfill {first} is canceled: {canceled.error.message}"]
    assert not set(runs_of(instance, first)) & {"QUEUED"}
    found = instance.get_run_by_id(died.run_id)
    assert found is not None
    assert found.tags[WILL_RETRY_TAG] == "false"
    assert other.title == "three days"
    assert other.tags == {"team": "b"}

    with daemon(instance, monkeypatch, *left) as context:
        iterate(context)
    assert backfill(instance, other.backfill_id).status is BulkActionStatus.REQUESTED
    assert runs_of(instance, other.backfill_id) == {"QUEUED": set(left)}
    leave_out_removed_models(instance, left)
    assert len(instance.get_backfills()) == 2


def test_materialized_partitions_are_not_requested(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = [START.date() + timedelta(days=day) for day in range(2)]
    with daemon(instance, monkeypatch, "A", "B") as context:
        first = backfill(instance, launch(context, days, "A", "B"))
    data = first.asset_backfill_data
    assert data is not None
    frames, feed = dg.AssetKey("metric_frames"), dg.AssetKey("benchmark_feed")
    done = {frames: {"2026-11-20|A", "2026-11-21|A"}, feed: {"2026-11-20|A"}}
    subset = AssetGraphSubset(  # type: ignore[call-arg]  # of a generated __new__
        {asset: DefaultPartitionsSubset(keys) for asset, keys in done.items()}, set()
    )
    instance.update_backfill(
        first._replace(asset_backfill_data=data._replace(materialized_subset=subset))
    )
    leave_out_removed_models(instance, ["A"])
    (other,) = instance.get_backfills(BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED]))
    assert other.asset_backfill_data is not None
    targeted = other.asset_backfill_data.target_subset.partitions_subsets_by_asset_key
    # A partition that one asset lacks is requested for both.
    assert {asset: set(targeted[asset].get_partition_keys()) for asset in targeted} == {
        frames: {"2026-11-21|A"},
        feed: {"2026-11-21|A"},
    }


def test_daemon_cancels_backfill_of_removed_models(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with daemon(instance, monkeypatch, "A", "B") as context:
        first = launch(context, [START.date()], "B")
    monkeypatch.setenv("LLM_MODELS_STR", "A")
    started = run_daemon_help()
    canceled = backfill(instance, first)
    assert canceled.status is BulkActionStatus.CANCELED
    assert canceled.error is not None
    assert canceled.error.message == (
        "LLM_MODELS_STR no longer names 'B', so its partitions are left out;"
        " the other models have no work left"
    )
    assert started.stderr.splitlines() == [
        f"Backfill {first} is canceled: {canceled.error.message}"
    ]
    assert len(instance.get_backfills()) == 1
    assert runs_of(instance, first) == {"CANCELED": {"B"}}


def test_daemon_starts_without_its_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    (tmp_path / "dagster.yaml").write_text(UNREACHABLE_STORAGE.format(port=port))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    started = run_daemon_help()
    # Dagster logs its own retries.
    (line,) = [line for line in started.stderr.splitlines() if "LLM_MODELS_STR" in line]
    assert f"port {port} failed: Connection refused" in line
    assert "restart the daemon to check again" in line
