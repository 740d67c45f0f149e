"""Old runs are removed from Dagster's storage, and every partition keeps its state."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.storage.compute_log_manager import ComputeIOType
from dagster._core.storage.partition_status_cache import (
    AssetPartitionStatus,
    get_and_update_asset_status_cache_value,
)
from dagster._core.storage.tags import BACKFILL_ID_TAG
from dagster._core.test_utils import create_run_for_test

from sim_pipeline.dagster_instance import run_history
from sim_pipeline.dagster_instance.run_history import RemovedHistory, remove_history
from sim_pipeline.store.connection import Postgres
from sim_pipeline_tests.support.assertions import wait_until
from sim_pipeline_tests.support.stored_windows import execute, fetch, sessions_waiting

DAYS = dg.StaticPartitionsDefinition(["monday", "tuesday", "wednesday"])
FRAMES, REPORT = dg.AssetKey("frames"), dg.AssetKey("report")
# The tables with rows of runs, in a column run_id.
RUN_TABLES = ("runs", "event_logs", "run_tags", "asset_check_executions")


class Fails(dg.Config):
    """Whether the asset fails."""

    fails: bool = False


@dg.asset(key=FRAMES, partitions_def=DAYS)
def frames(config: Fails) -> dg.MaterializeResult[None]:
    if config.fails:
        raise ValueError("fails as configured")
    return dg.MaterializeResult(tags={"a_tag": "its_own"})


@dg.asset_check(asset=FRAMES)
def frames_check() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


@dg.asset(key=REPORT)
def report() -> None:
    pass


DEFS = dg.Definitions(
    assets=[frames, report],
    asset_checks=[frames_check],
    jobs=[
        dg.define_asset_job("frames_job", dg.AssetSelection.assets(FRAMES)),
        dg.define_asset_job("report_job", dg.AssetSelection.assets(REPORT)),
    ],
)


def run(instance: dg.DagsterInstance, day: str | None = None, *, fails: bool = False) -> str:
    """Materialize a partition of `frames`, or `report`; return the run's id."""
    job = DEFS.resolve_job_def("frames_job" if day else "report_job")
    return job.execute_in_process(
        instance=instance,
        partition_key=day,
        run_config={"ops": {"frames": {"config": {"fails": fails}}}} if day else None,
        raise_on_error=False,
    ).run_id


def remove_all(instance: dg.DagsterInstance) -> RemovedHistory:
    """Remove all finished runs."""
    return remove_history(instance, datetime.now(UTC))


def row_counts(storage: Postgres, run_id: str) -> Mapping[str, int]:
    """Return the number of rows of a run in each table."""
    return {
        table: fetch(storage, f"SELECT count(*) FROM {table} WHERE run_id = :id", id=run_id)[0][0]
        for table in RUN_TABLES
    }


def event_types(storage: Postgres, run_id: str) -> list[str]:
    query = "SELECT dagster_event_type FROM event_logs WHERE run_id = :id ORDER BY id"
    return [kind for (kind,) in fetch(storage, query, id=run_id)]


def states(instance: dg.DagsterInstance, *, fresh: bool = True) -> dict[str, AssetPartitionStatus]:
    """Return what the UI shows of `frames`; with `fresh`, clear Dagster's cache first."""
    if fresh:
        instance.event_log_storage.wipe_asset_cached_status(FRAMES)
    value = get_and_update_asset_status_cache_value(instance, FRAMES, DAYS)
    if value is None:
        return {}
    materialized = value.deserialize_materialized_partition_subsets(DAYS)
    failed = value.deserialize_failed_partition_subsets(DAYS)
    return {
        **dict.fromkeys(materialized.get_partition_keys(), AssetPartitionStatus.MATERIALIZED),
        **dict.fromkeys(failed.get_partition_keys(), AssetPartitionStatus.FAILED),
    }


def output_of(instance: dg.DagsterInstance, run_id: str) -> Path:
    """Return the directory of a run's printed output."""
    return Path(instance.storage_directory()) / run_id


def test_superseded_run_is_removed_completely(
    instance: dg.DagsterInstance, storage: Postgres
) -> None:
    old = run(instance, "monday")
    cutoff = datetime.now(UTC)
    new = run(instance, "monday")
    before = row_counts(storage, new)
    assert all(count > 0 for count in row_counts(storage, old).values())
    assert output_of(instance, old).exists()
    removed = remove_history(instance, cutoff)
    assert (removed.runs, removed.events) == (1, before["event_logs"])
    assert set(row_counts(storage, old).values()) == {0}
    assert not output_of(instance, old).exists()
    assert row_counts(storage, new) == before
    assert output_of(instance, new).exists()
    events = fetch(storage, "SELECT id FROM event_logs")
    assert set(fetch(storage, "SELECT event_id FROM asset_event_tags")) <= set(events)


def test_partitions_keep_their_state(instance: dg.DagsterInstance, storage: Postgres) -> None:
    """Materialized, materialized after a failure, and failed after a materialization."""
    made = run(instance, "monday")
    run(instance, "tuesday", fails=True)
    run(instance, "tuesday")
    run(instance, "wednesday")
    failed = run(instance, "wednesday", fails=True)
    expected = {
        "monday": AssetPartitionStatus.MATERIALIZED,
        "tuesday": AssetPartitionStatus.MATERIALIZED,
        "wednesday": AssetPartitionStatus.FAILED,
    }
    assert states(instance) == expected
    assert instance.get_materialized_partitions(FRAMES) == set(DAYS.get_partition_keys())
    latest = instance.get_latest_materialization_event(FRAMES)
    assert remove_all(instance).runs == 1
    assert states(instance) == states(instance, fresh=False) == expected
    assert instance.get_materialized_partitions(FRAMES) == set(DAYS.get_partition_keys())
    assert instance.get_latest_materialization_event(FRAMES) == latest
    assert event_types(storage, made) == ["ASSET_MATERIALIZATION"]
    assert event_types(storage, failed) == ["ASSET_MATERIALIZATION_PLANNED"]
    record = instance.get_run_by_id(made)
    assert record is not None
    assert record.is_success
    assert not output_of(instance, made).exists()


def test_latest_materialization_without_partitions_stays(
    instance: dg.DagsterInstance, storage: Postgres
) -> None:
    first, second = run(instance), run(instance)
    assert remove_all(instance).runs == 1
    assert set(row_counts(storage, first).values()) == {0}
    assert event_types(storage, second) == ["ASSET_MATERIALIZATION"]


def test_latest_check_record_stays(instance: dg.DagsterInstance) -> None:
    run(instance, "monday")
    (key,) = frames_check.check_keys
    checks = instance.event_log_storage
    run(instance, "monday")
    latest = checks.get_latest_asset_check_execution_by_key([key])
    remove_all(instance)
    assert checks.get_latest_asset_check_execution_by_key([key]) == latest
    assert len(checks.get_asset_check_execution_history(key, limit=9)) == 1


def test_state_is_removed_with_its_results(instance: dg.DagsterInstance, storage: Postgres) -> None:
    old = run(instance, "monday")
    cutoff = datetime.now(UTC)
    run(instance, "tuesday")
    assert set(states(instance)) == {"monday", "tuesday"}
    remove_history(instance, datetime.now(UTC), states_before=cutoff)
    assert set(row_counts(storage, old).values()) == {0}
    assert set(states(instance, fresh=False)) == {"tuesday"}


def test_unfinished_runs_are_kept(instance: dg.DagsterInstance, storage: Postgres) -> None:
    runs = []
    for status in (
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.STARTED,
        dg.DagsterRunStatus.CANCELING,
    ):
        runs.append(create_run_for_test(instance, "frames_job", status=status).run_id)
        instance.report_engine_event("An event", run_id=runs[-1], job_name="frames_job")
    before = [row_counts(storage, run_id) for run_id in runs]
    assert remove_all(instance) == RemovedHistory()
    assert [row_counts(storage, run_id) for run_id in runs] == before


def test_second_call_removes_nothing(instance: dg.DagsterInstance, storage: Postgres) -> None:
    run(instance, "monday")
    run(instance, "monday")
    assert remove_all(instance).runs == 1
    assert remove_all(instance) == RemovedHistory()
    run(instance, "monday")
    assert remove_all(instance).runs == 1, "it stays until another run supersedes it"
    assert len(fetch(storage, "SELECT FROM runs")) == 1


def test_batch_size_does_not_change_the_result(
    instance: dg.DagsterInstance, storage: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_history, "BATCH_RUNS", 2)
    monkeypatch.setattr(run_history, "BATCH_EVENTS", 3)
    ids = [run(instance, day) for day in ("monday", "tuesday", "monday", "monday", "monday")]
    expected = sum(row_counts(storage, run_id)["event_logs"] for run_id in ids) - 2
    assert remove_all(instance) == RemovedHistory(runs=3, events=expected)
    assert len(fetch(storage, "SELECT FROM event_logs")) == 2


def test_interrupted_call_is_completed_by_the_next(
    instance: dg.DagsterInstance, storage: Postgres
) -> None:
    """The server ends the session after the events are removed and before the run is."""
    old = run(instance, "monday")
    run(instance, "monday")
    with ThreadPoolExecutor() as threads, storage.engine.connect() as other:
        other.execute(sa.text("LOCK TABLE runs IN SHARE MODE"))
        removing = threads.submit(remove_all, instance)
        wait_until(lambda: len(sessions_waiting(storage)) == 1)
        assert row_counts(storage, old)["event_logs"] == 0
        execute(
            storage,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        with pytest.raises(sa.exc.OperationalError):
            removing.result()
        other.rollback()
    assert row_counts(storage, old)["runs"] == 1
    assert remove_all(instance).runs == 1
    assert set(row_counts(storage, old).values()) == {0}
    assert states(instance) == {"monday": AssetPartitionStatus.MATERIALIZED}


def test_concurrent_calls_remove_each_run_once(
    instance: dg.DagsterInstance, storage: Postgres
) -> None:
    for _ in range(5):
        run(instance, "monday")
    with ThreadPoolExecutor() as threads:
        calls = [threads.submit(remove_all, instance) for _ in range(2)]
        assert sum(call.result().runs for call in calls) == 4
    assert states(instance) == {"monday": AssetPartitionStatus.MATERIALIZED}
    assert len(fetch(storage, "SELECT FROM event_logs")) == 1


def backfill(
    instance: dg.DagsterInstance, name: str, status: BulkActionStatus, **options: Any
) -> None:
    instance.add_backfill(
        PartitionBackfill(
            backfill_id=name,
            status=status,
            from_failure=False,
            tags={"a_tag": "its_own"},
            backfill_timestamp=(datetime.now(UTC) - timedelta(hours=1)).timestamp(),
            **options,
        )
    )


def test_backfill_is_removed_with_its_last_run(
    instance: dg.DagsterInstance, storage: Postgres
) -> None:
    backfill(instance, "done", BulkActionStatus.COMPLETED_SUCCESS)
    backfill(instance, "running", BulkActionStatus.REQUESTED)
    backfill(instance, "kept", BulkActionStatus.COMPLETED_FAILED)
    for name, status in (("done", "SUCCESS"), ("kept", "STARTED")):
        create_run_for_test(
            instance, status=dg.DagsterRunStatus(status), tags={BACKFILL_ID_TAG: name}
        )
    assert remove_all(instance) == RemovedHistory(runs=1, backfills=1)
    for query in (
        "SELECT key FROM bulk_actions ORDER BY 1",
        "SELECT backfill_id FROM backfill_tags ORDER BY 1",
    ):
        assert fetch(storage, query) == [("kept",), ("running",)]


def test_newer_backfill_stays(instance: dg.DagsterInstance) -> None:
    backfill(instance, "done", BulkActionStatus.COMPLETED_SUCCESS)
    cutoff = datetime.now(UTC) - timedelta(hours=2)
    assert remove_history(instance, cutoff) == RemovedHistory()


def add_tick(instance: dg.DagsterInstance, schedule: str) -> tuple[int, Path]:
    """Add a tick of a schedule with a log; return its id and the log's path."""
    state = InstigatorState(
        RemoteInstigatorOrigin(
            RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("sim_pipeline"), "__repository__"),
            schedule,
        ),
        InstigatorType.SCHEDULE,
        InstigatorStatus.DECLARED_IN_CODE,
        ScheduleInstigatorData("0 * * * *"),
    )
    if instance.get_instigator_state(state.instigator_origin_id, state.selector_id) is None:
        instance.add_instigator_state(state)
    tick = instance.create_tick(
        TickData(
            state.instigator_origin_id,
            schedule,
            InstigatorType.SCHEDULE,
            TickStatus.SUCCESS,
            datetime.now(UTC).timestamp(),
            run_ids=[],
            selector_id=state.selector_id,
        )
    )
    key = ["__repository__", schedule, str(tick.tick_id)]
    with instance.compute_log_manager.open_log_stream(key, ComputeIOType.STDERR):
        log = Path(instance.storage_directory()).joinpath(*key[:2], f"{key[2]}.err")
    assert log.exists()
    return int(tick.tick_id), log


def test_log_of_a_removed_tick_is_removed(instance: dg.DagsterInstance, storage: Postgres) -> None:
    gone, old_log = add_tick(instance, "a_schedule")
    _, log = add_tick(instance, "a_schedule")
    _, other = add_tick(instance, "another_schedule")
    (old_log.parent / "unrelated.err").touch()
    execute(storage, "DELETE FROM job_ticks WHERE id = :id", id=gone)
    assert remove_all(instance) == RemovedHistory(tick_logs=1)
    assert [path.exists() for path in (old_log, log, other)] == [False, True, True]


def test_other_storage_than_postgresql_is_refused() -> None:
    with (
        dg.DagsterInstance.ephemeral() as instance,
        pytest.raises(TypeError, match="InMemoryEventLogStorage: history can be removed from"),
    ):
        remove_all(instance)
