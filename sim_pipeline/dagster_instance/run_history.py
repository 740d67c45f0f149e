"""Removes old runs from Dagster's storage, which otherwise keeps them forever.

For each finished, old run this removes its events, its printed output, its check records, its tags
and the run. It also removes backfills without runs, and the logs of ticks that no longer exist.

The events that define the state of an asset's partition stay, with their runs: the latest
materialization ("materialized"), a later attempt ("failed") and the latest record of each check.
That is a handful of rows per partition. They go when a newer run supersedes them, or when the
results of the partition are removed too.

Deletion starts with the events and ends with the run, so an interrupted deletion finds the run
again. Only files on this process's disk are removed; on Kubernetes, files end with their pod.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg
import sqlalchemy as sa
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES
from dagster._core.storage.compute_log_manager import ComputeIOType
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.runs.schema import BackfillTagsTable, BulkActionsTable, RunsTable
from dagster._core.storage.schedules.schema import JobTickTable
from dagster_postgres import (
    PostgresEventLogStorage,
    PostgresRunStorage,
    PostgresScheduleStorage,
)

# Runs that are read and removed together.
BATCH_RUNS = 100
# Events per DELETE statement. A run over a year of partitions has thousands of events.
BATCH_EVENTS = 5_000


@dataclass(frozen=True)
class RemovedHistory:
    """Numbers of removed items.

    Attributes:
        runs: runs that were removed completely.
        events: events, including those of runs that stay.
        backfills: backfills whose runs are all removed.
        tick_logs: logs of ticks.
    """

    runs: int = 0
    events: int = 0
    backfills: int = 0
    tick_logs: int = 0


def remove_history(
    instance: dg.DagsterInstance, before: datetime, states_before: datetime | None = None
) -> RemovedHistory:
    """Remove the finished runs that were last updated before a time, with all their data.

    If the process is killed, the next call continues.

    Args:
        instance: the instance whose storage is cleaned.
        before: the time, aware.
        states_before: an earlier time, aware. For runs last updated before it, the events that
            define the state of a partition are removed too. None keeps every state.

    Raises:
        TypeError: Dagster's storage is not PostgreSQL.
        sqlalchemy.exc.OperationalError: the storage is unreachable, or the connection is lost.
    """
    history = _History(instance)
    runs = events = 0
    if states_before is not None:
        runs, events = history.remove_runs(states_before)
        if events:
            history.clear_cached_states()
    more_runs, more_events = history.remove_runs(before, history.states())
    return RemovedHistory(
        runs + more_runs,
        events + more_events,
        history.remove_backfills(before),
        history.remove_tick_logs(),
    )


@dataclass(frozen=True)
class _States:
    """The events and check records that define the states of assets.

    Attributes:
        events: ids of events.
        checks: ids of check records.
    """

    events: frozenset[int] = frozenset()
    checks: frozenset[int] = frozenset()


_NO_STATES = _States()


class _History:
    """The statements on Dagster's storage for which Dagster has no method."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        events, runs = instance.event_log_storage, instance.run_storage
        ticks = instance.schedule_storage
        if not (
            isinstance(events, PostgresEventLogStorage)
            and isinstance(runs, PostgresRunStorage)
            and isinstance(ticks, PostgresScheduleStorage)
        ):
            raise TypeError(
                f"Dagster's storage is {type(events).__name__}: history can be removed from"
                " PostgreSQL only; set it as storage in dagster.yaml"
            )
        self._instance = instance
        self._events, self._runs, self._ticks = events, runs, ticks

    def states(self) -> _States:
        """Return the latest events of each asset and partition, and the latest check records."""
        events: set[int] = set()
        for key in self._instance.get_asset_keys():
            materialized = self._events.get_latest_storage_id_by_partition(
                key, dg.DagsterEventType.ASSET_MATERIALIZATION
            )
            planned = self._events.get_latest_storage_id_by_partition(
                key, dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
            )
            events.update(materialized.values())
            events.update(
                event
                for partition, event in planned.items()
                if event > materialized.get(partition, 0)
            )
            # For assets without partitions.
            latest = self._events.fetch_materializations(key, limit=1).records
            events.update(record.storage_id for record in latest)
        check = AssetCheckExecutionsTable.c
        latest_checks = sa.select(sa.func.max(check.id)).group_by(
            check.asset_key, check.check_name, check.partition
        )
        with self._events.index_connection() as connection:
            return _States(frozenset(events), frozenset(connection.scalars(latest_checks)))

    def clear_cached_states(self) -> None:
        """Make Dagster compute the states of assets again: its cache only ever adds partitions."""
        for key in self._instance.get_asset_keys():
            self._events.wipe_asset_cached_status(key)

    def remove_runs(self, before: datetime, kept: _States = _NO_STATES) -> tuple[int, int]:
        """Remove old runs except the kept states; return the numbers of runs and events."""
        runs = events = 0
        for run_ids in self._old_runs(before):
            of_runs = self._events_of(run_ids)
            needed = {run_id for event, run_id in of_runs if event in kept.events}
            stale = [(event, run_id) for event, run_id in of_runs if event not in kept.events]
            for run_id in set(run_ids) - needed | {run_id for _, run_id in stale}:
                # Another process may be removing the same directory.
                with suppress(FileNotFoundError):
                    self._instance.compute_log_manager.delete_logs(prefix=[run_id])
            for start in range(0, len(stale), BATCH_EVENTS):
                self._remove_events([event for event, _ in stale[start : start + BATCH_EVENTS]])
            needed |= self._remove_checks(run_ids, kept.checks)
            events += len(stale)
            runs += self._remove_run_records(set(run_ids) - needed)
        return runs, events

    def _old_runs(self, before: datetime) -> Iterator[Sequence[str]]:
        """Yield batches of ids of the finished runs that were last updated before a time."""
        run = RunsTable.c
        after = 0
        while True:
            query = (
                sa.select(run.id, run.run_id)
                .where(
                    run.id > after,
                    run.status.in_([status.value for status in FINISHED_STATUSES]),
                    # Dagster stores UTC without a zone.
                    run.update_timestamp < before.astimezone(UTC).replace(tzinfo=None),
                )
                .order_by(run.id)
                .limit(BATCH_RUNS)
            )
            with self._runs.connect() as connection:
                found = connection.execute(query).all()
            if not found:
                return
            yield [row.run_id for row in found]
            after = found[-1].id

    def _events_of(self, run_ids: Sequence[str]) -> list[tuple[int, str]]:
        """Return the id and the run id of each event of the runs."""
        event = SqlEventLogStorageTable.c
        query = sa.select(event.id, event.run_id).where(event.run_id.in_(run_ids))
        with self._events.index_connection() as connection:
            return [(row.id, row.run_id) for row in connection.execute(query.order_by(event.id))]

    def _remove_events(self, ids: Sequence[int]) -> None:
        with self._events.index_transaction() as connection:
            connection.execute(
                sa.delete(AssetEventTagsTable).where(AssetEventTagsTable.c.event_id.in_(ids))
            )
            connection.execute(
                sa.delete(SqlEventLogStorageTable).where(SqlEventLogStorageTable.c.id.in_(ids))
            )

    def _remove_checks(self, run_ids: Sequence[str], kept: Collection[int]) -> set[str]:
        """Remove the check records of runs except `kept`; return the runs of the kept records."""
        check = AssetCheckExecutionsTable.c
        query = sa.select(check.id, check.run_id).where(check.run_id.in_(run_ids))
        with self._events.index_connection() as connection:
            found = connection.execute(query).all()
            stale = [row.id for row in found if row.id not in kept]
            connection.execute(sa.delete(AssetCheckExecutionsTable).where(check.id.in_(stale)))
        return {row.run_id for row in found if row.id in kept}

    def _remove_run_records(self, run_ids: Collection[str]) -> int:
        """Remove runs and, by foreign key, their tags; return the number of runs."""
        with self._runs.connect() as connection:
            return connection.execute(
                sa.delete(RunsTable).where(RunsTable.c.run_id.in_(run_ids))
            ).rowcount

    def remove_backfills(self, before: datetime) -> int:
        """Remove old, finished backfills without runs; return their number."""
        backfill = BulkActionsTable.c
        done = (
            sa.delete(BulkActionsTable)
            .where(
                backfill.status.in_([status.value for status in BULK_ACTION_TERMINAL_STATUSES]),
                backfill.timestamp < before.astimezone(UTC).replace(tzinfo=None),
                ~sa.exists().where(RunsTable.c.backfill_id == backfill.key),
            )
            .returning(backfill.key)
        )
        with self._runs.connect() as connection:
            keys = connection.scalars(done).all()
            connection.execute(
                sa.delete(BackfillTagsTable).where(BackfillTagsTable.c.backfill_id.in_(keys))
            )
        return len(keys)

    def remove_tick_logs(self) -> int:
        """Remove the logs of ticks that no longer exist; return their number."""
        logs = self._instance.compute_log_manager
        removed = 0
        for state in self._instance.all_instigator_state():
            prefix = [state.origin.repository_origin.repository_name, state.instigator_name]
            # The prefix is a directory. It does not exist before the first tick.
            with suppress(FileNotFoundError):
                for key in self._without_tick(
                    logs.get_log_keys_for_log_key_prefix(prefix, ComputeIOType.STDERR)
                ):
                    logs.delete_logs(log_key=key)
                    removed += 1
        return removed

    def _without_tick(self, log_keys: Sequence[Sequence[str]]) -> Iterator[Sequence[str]]:
        """Yield the logs, named by the id of their tick, whose tick no longer exists."""
        for start in range(0, len(log_keys), BATCH_EVENTS):
            batch = {
                int(key[-1]): key
                for key in log_keys[start : start + BATCH_EVENTS]
                if key[-1].isdigit()
            }
            query = sa.select(JobTickTable.c.id).where(JobTickTable.c.id.in_(batch))
            with self._ticks.connect() as connection:
                existing = set(connection.scalars(query))
            yield from (key for tick, key in batch.items() if tick not in existing)
