"""Runs and backfills of a model that was removed from LLM_MODELS_STR while they were under way.

Dagster fails a whole backfill once one of its partitions is gone, and names every such partition. A
run over such a partition fails with a traceback. Here the removed models are left out instead, in
one line that names them, and the other models go on.

Dagster's data of a backfill are private. So they are read only, never changed: a backfill that has
partitions of a removed model is canceled, and another one does what is left of the other models.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.definitions.partitions.subset import DefaultPartitionsSubset
from dagster._core.execution.asset_backfill import AssetBackfillData
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus, PartitionBackfill
from dagster._core.storage.dagster_run import DagsterRun
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    BACKFILL_ID_TAG,
    PARTITION_NAME_TAG,
    WILL_RETRY_TAG,
)
from dagster._core.utils import make_new_backfill_id
from dagster._time import get_current_timestamp
from dagster_shared.error import SerializableErrorInfo

from sim_pipeline.dagster_instance.run_tags import REQUEST_TAG, with_models

_PARTITION_TAGS = (
    PARTITION_NAME_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    ASSET_PARTITION_RANGE_END_TAG,
)

logger = logging.getLogger(__name__)


def cancel_if_removed(instance: dg.DagsterInstance, run: DagsterRun, known: Sequence[str]) -> bool:
    """Cancel a run that is about to be launched if a model of it is gone; tell whether it was.

    Args:
        instance: whose run it is.
        run: not launched yet.
        known: the models of LLM_MODELS_STR.
    """
    keys = [run.tags[tag] for tag in _PARTITION_TAGS if "|" in run.tags.get(tag, "")]
    removed = sorted(set(map(_model, keys)) - set(known))
    if removed:
        message = f"Not launched: {_not_in_settings(removed)}"
        logger.warning("Run %s: %s", run.run_id, message)
        instance.report_run_canceled(run, message)
    return bool(removed)


def leave_out_removed_models(instance: dg.DagsterInstance, known: Sequence[str]) -> None:
    """Let the unfinished backfills go on without the models that are gone.

    Args:
        instance: whose backfills.
        known: the models of LLM_MODELS_STR.
    """
    requested = BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED])
    for backfill in instance.get_backfills(filters=requested):
        data = backfill.asset_backfill_data
        if data is None:
            continue
        targeted = _models(data.target_subset)
        if not targeted <= set(known):
            _replace(instance, backfill, data, _Models.of(targeted, known))


@dataclass(frozen=True)
class _Models:
    """The models of a backfill.

    Attributes:
        removed: those that LLM_MODELS_STR no longer names.
        left: the others, in its order.
    """

    removed: tuple[str, ...]
    left: tuple[str, ...]

    @classmethod
    def of(cls, targeted: Collection[str], known: Sequence[str]) -> Self:
        return cls(
            tuple(sorted(set(targeted) - set(known))),
            tuple(name for name in known if name in targeted),
        )


def _replace(
    instance: dg.DagsterInstance,
    backfill: PartitionBackfill,
    data: AssetBackfillData,
    models: _Models,
) -> None:
    """Cancel a backfill; have another one do what it left of the models that are still there."""
    message = f"{_not_in_settings(models.removed)}, so its partitions are left out"
    rest = _rest(data, models.removed)
    if rest.is_empty:
        message += "; nothing else was left to do"
    else:
        following = _following(instance, backfill, rest, models.left)
        # Before the other one ends: if this process dies in between, some partitions are done by
        # two backfills, which share the work, instead of by none.
        instance.add_backfill(following)
        message += f"; backfill {following.backfill_id} does what is left of the other models"
    logger.warning("Backfill %s is canceled: %s", backfill.backfill_id, message)
    instance.update_backfill(
        backfill._replace(
            status=BulkActionStatus.CANCELED,
            error=SerializableErrorInfo(message, [], None),
            backfill_end_timestamp=get_current_timestamp(),
        )
    )
    _give_up_runs(instance, backfill.backfill_id, message)


def _following(
    instance: dg.DagsterInstance,
    backfill: PartitionBackfill,
    rest: AssetGraphSubset,
    llm_names: Sequence[str],
) -> PartitionBackfill:
    now = get_current_timestamp()
    tags = dict(backfill.tags)
    if REQUEST_TAG in tags:
        # So that `make backfill` finds it by the request that it is told now.
        tags[REQUEST_TAG] = with_models(tags[REQUEST_TAG], llm_names)
    return PartitionBackfill(
        backfill_id=make_new_backfill_id(),
        status=BulkActionStatus.REQUESTED,
        from_failure=False,
        tags=tags,
        backfill_timestamp=now,
        asset_selection=backfill.asset_selection,
        title=backfill.title,
        description=backfill.description,
        run_config=backfill.run_config,
        asset_backfill_data=AssetBackfillData.empty(rest, now, instance),
    )


def _rest(data: AssetBackfillData, removed: Collection[str]) -> AssetGraphSubset:
    """Return what a backfill has not materialized yet of the models that are still there."""
    targeted, materialized = _keys(data.target_subset), _keys(data.materialized_subset)
    # A partition that one of the assets lacks is done again in all, which skips what is stored.
    done = frozenset.intersection(*(materialized.get(asset, frozenset()) for asset in targeted))
    return AssetGraphSubset(  # type: ignore[call-arg]  # of a generated __new__
        partitions_subsets_by_asset_key={
            asset: DefaultPartitionsSubset(
                {key for key in keys - done if _model(key) not in removed}
            )
            for asset, keys in targeted.items()
        },
        non_partitioned_asset_keys=data.target_subset.non_partitioned_asset_keys
        - data.materialized_subset.non_partitioned_asset_keys,
    )


def _give_up_runs(instance: dg.DagsterInstance, backfill_id: str, message: str) -> None:
    """Launch neither what is queued nor, again, what failed: the other backfill does it."""
    tags = {BACKFILL_ID_TAG: backfill_id}
    queued = dg.RunsFilter(tags=tags, statuses=[dg.DagsterRunStatus.QUEUED])
    for run in instance.get_runs(queued):
        instance.report_run_canceled(run, f"Backfill {backfill_id} is canceled: {message}")
    failed = dg.RunsFilter(
        tags={**tags, WILL_RETRY_TAG: "true"}, statuses=[dg.DagsterRunStatus.FAILURE]
    )
    for run in instance.get_runs(failed):
        instance.add_run_tags(run.run_id, {WILL_RETRY_TAG: "false"})


def _keys(subset: AssetGraphSubset) -> Mapping[dg.AssetKey, frozenset[str]]:
    return {
        asset: frozenset(partitions.get_partition_keys())
        for asset, partitions in subset.partitions_subsets_by_asset_key.items()
    }


def _models(subset: AssetGraphSubset) -> set[str]:
    return {_model(key) for keys in _keys(subset).values() for key in keys}


def _model(partition_key: str) -> str:
    return partition_key.partition("|")[2]


def _not_in_settings(removed: Sequence[str]) -> str:
    return f"LLM_MODELS_STR no longer names {', '.join(map(repr, removed))}"
