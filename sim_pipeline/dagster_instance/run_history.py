"""The end of old runs in Dagster's own storage, which keeps everything until someone removes it.

What grows, and what becomes of it here, once a run is finished and old:

- Its events and what it printed go: a hundred rows and a directory of files a run, nearly all
  there is. So do the records of its checks, and the run itself with its tags.
- Except what Dagster tells an asset's state from. It looks at nothing but the latest events of a
  partition: the latest materialization ("materialized"; with it, when, and by which run), and an
  attempt later than that ("failed"). `delete_run` takes those as well, and a partition that is
  stored would read as missing. They stay, as do the latest record of each check and partition, and
  the runs these belong to (their pages then show no other events): for each partition no more than
  a handful of rows, until a later run supersedes them.
- Where results are removed too, the state of a partition that has outlived them goes with them:
  what is no longer stored is not to read as materialized.
- A backfill goes with its last run; the log that a schedule's tick wrote goes with the tick, which
  `retention` of dagster.yaml is for.

The rest stays small by itself: snapshots are one a version of the code, heartbeats one a daemon,
slots and pending steps end with their run, and evaluations of automation conditions, which we have
none of, are Dagster's daemon's to purge.

Runs are removed by the hundred rather than by `delete_run`, which takes several connections for
each. Events go first and the run last: whatever is left when the process is killed, the run is
still there to find it by.

Files are those that this process reaches: where the code location, the daemon and the runs share no
disk (Kubernetes), each pod's files end with the pod.
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

# What is looked at, and then removed, at once.
BATCH_RUNS = 100
# A run over a year of partitions has thousands of events: they go in several statements.
BATCH_EVENTS = 5_000


@dataclass(frozen=True)
class RemovedHistory:
    """What is gone.

    Attributes:
        runs: whole runs.
        events: events, those of runs that stay included.
        backfills: backfills that no run is left of.
        tick_logs: logs of ticks.
    """

    runs: int = 0
    events: int = 0
    backfills: int = 0
    tick_logs: int = 0


def remove_history(
    instance: dg.DagsterInstance, before: datetime, states_before: datetime | None = None
) -> RemovedHistory:
    """Remove the finished runs that nothing has happened to since a moment, with their traces.

    What is removed when the process is killed stays removed; the next call goes on from there.

    Args:
        instance: whose storage to remove from.
        before: the moment.
        states_before: from an earlier moment back, also remove what assets' states are told from;
            None keeps every state.

    Raises:
        TypeError: Dagster's storage is not PostgreSQL.
        sqlalchemy.exc.OperationalError: it can't be reached, or the connection is lost.
    """
    history = _History(instance)
    runs = events = 0
    if states_before is not None:
        runs, events = history.remove_runs(states_before)
        if events:
            history.forget_cached_states()
    more_runs, more_events = history.remove_runs(before, history.states())
    return RemovedHistory(
        runs + more_runs,
        events + more_events,
        history.remove_backfills(before),
        history.remove_tick_logs(),
    )


@dataclass(frozen=True)
class _States:
    """What assets' states are told from.

    Attributes:
        events: ids of events.
        checks: ids of records of checks.
    """

    events: frozenset[int] = frozenset()
    checks: frozenset[int] = frozenset()


_NO_STATES = _States()


class _History:
    """Dagster's storage, with the statements that it has no method for."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        events, runs = instance.event_log_storage, instance.run_storage
        ticks = instance.schedule_storage
        if not (
            isinstance(events, PostgresEventLogStorage)
            and isinstance(runs, PostgresRunStorage)
            and isinstance(ticks, PostgresScheduleStorage)
        ):
            raise TypeError(
                f"Dagster's storage is {type(events).__name__}: only PostgreSQL, named by"
                " dagster.yaml, has its history removed"
            )
        self._instance = instance
        self._events, self._runs, self._ticks = events, runs, ticks

    def states(self) -> _States:
        """Find the latest events of each asset and partition, and the latest records of checks."""
        events: set[int] = set()
        for key in self._instance.get_asset_keys():
            made = self._events.get_latest_storage_id_by_partition(
                key, dg.DagsterEventType.ASSET_MATERIALIZATION
            )
            tried = self._events.get_latest_storage_id_by_partition(
                key, dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
            )
            events.update(made.values())
            events.update(at for partition, at in tried.items() if at > made.get(partition, 0))
            # Of an asset without partitions.
            latest = self._events.fetch_materializations(key, limit=1).records
            events.update(record.storage_id for record in latest)
        check = AssetCheckExecutionsTable.c
        latest_checks = sa.select(sa.func.max(check.id)).group_by(
            check.asset_key, check.check_name, check.partition
        )
        with self._events.index_connection() as connection:
            return _States(frozenset(events), frozenset(connection.scalars(latest_checks)))

    def forget_cached_states(self) -> None:
        """Have Dagster tell the states of assets anew: what it remembers only ever adds to them."""
        for key in self._instance.get_asset_keys():
            self._events.wipe_asset_cached_status(key)

    def remove_runs(self, before: datetime, kept: _States = _NO_STATES) -> tuple[int, int]:
        """Remove old runs but for what states are told from; return how many runs and events."""
        runs = events = 0
        for run_ids in self._old_runs(before):
            of_runs = self._events_of(run_ids)
            needed = {run_id for event, run_id in of_runs if event in kept.events}
            stale = [(event, run_id) for event, run_id in of_runs if event not in kept.events]
            for run_id in set(run_ids) - needed | {run_id for _, run_id in stale}:
                # Another process may be at the same directory.
                with suppress(FileNotFoundError):
                    self._instance.compute_log_manager.delete_logs(prefix=[run_id])
            for start in range(0, len(stale), BATCH_EVENTS):
                self._remove_events([event for event, _ in stale[start : start + BATCH_EVENTS]])
            needed |= self._remove_checks(run_ids, kept.checks)
            events += len(stale)
            runs += self._remove_run_records(set(run_ids) - needed)
        return runs, events

    def _old_runs(self, before: datetime) -> Iterator[Sequence[str]]:
        """Name the finished runs that were last updated before a moment, a batch at a time."""
        run = RunsTable.c
        after = 0
        while True:
            query = (
                sa.select(run.id, run.run_id)
                .where(
                    run.id > after,
                    run.status.in_([status.value for status in FINISHED_STATUSES]),
                    # As Dagster itself compares it: without a zone, UTC.
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
        """Return the id and the run of each event of some runs."""
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
        """Remove the records of checks but for some; return the runs that these are of."""
        check = AssetCheckExecutionsTable.c
        query = sa.select(check.id, check.run_id).where(check.run_id.in_(run_ids))
        with self._events.index_connection() as connection:
            found = connection.execute(query).all()
            stale = [row.id for row in found if row.id not in kept]
            connection.execute(sa.delete(AssetCheckExecutionsTable).where(check.id.in_(stale)))
        return {row.run_id for row in found if row.id in kept}

    def _remove_run_records(self, run_ids: Collection[str]) -> int:
        """Remove runs, and with them, by their foreign key, their tags."""
        with self._runs.connect() as connection:
            return connection.execute(
                sa.delete(RunsTable).where(RunsTable.c.run_id.in_(run_ids))
            ).rowcount

    def remove_backfills(self, before: datetime) -> int:
        """Remove old backfills that are done and that no run is left of; return how many."""
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
        """Remove the logs of ticks that are no longer there; return how many."""
        logs = self._instance.compute_log_manager
        removed = 0
        for state in self._instance.all_instigator_state():
            prefix = [state.origin.repository_origin.repository_name, state.instigator_name]
            # That is a directory which a schedule that has not ticked lacks.
            with suppress(FileNotFoundError):
                for key in self._without_tick(
                    logs.get_log_keys_for_log_key_prefix(prefix, ComputeIOType.STDERR)
                ):
                    logs.delete_logs(log_key=key)
                    removed += 1
        return removed

    def _without_tick(self, log_keys: Sequence[Sequence[str]]) -> Iterator[Sequence[str]]:
        """Pick the logs, named by the id of their tick, whose tick is no longer there."""
        for start in range(0, len(log_keys), BATCH_EVENTS):
            batch = {
                int(key[-1]): key
                for key in log_keys[start : start + BATCH_EVENTS]
                if key[-1].isdigit()
            }
            query = sa.select(JobTickTable.c.id).where(JobTickTable.c.id.in_(batch))
            with self._ticks.connect() as connection:
                there = set(connection.scalars(query))
            yield from (key for tick, key in batch.items() if tick not in there)
