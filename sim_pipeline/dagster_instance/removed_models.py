"""Handles runs and backfills in progress when their model is removed from LLM_MODELS_STR.

Dagster fails a whole backfill if one of its partitions no longer exists, and a run of such a
partition fails with a traceback. Instead, this module cancels such runs and backfills with one line
that names the removed models. A new backfill continues with the other models.

The data of a backfill are private to Dagster, so this module reads them and does not change them.
"""

import logging
from collections.abc import Collection, Mapping, Sequence

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

from sim_pipeline.dagster_instance.storage import STORAGE_ERRORS, storage_error_message
from sim_pipeline.partition_keys import split_partition_key

_PARTITION_TAGS = (
    PARTITION_NAME_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    ASSET_PARTITION_RANGE_END_TAG,
)

logger = logging.getLogger(__name__)


def cancel_if_removed(instance: dg.DagsterInstance, run: DagsterRun, known: Sequence[str]) -> bool:
    """Cancel a run before its launch if one of its models was removed.

    Args:
        instance: the run's instance.
        run: a run that is not launched yet.
        known: the models of LLM_MODELS_STR.

    Returns:
        Whether the run was canceled.
    """
    keys = [run.tags[tag] for tag in _PARTITION_TAGS if "|" in run.tags.get(tag, "")]
    removed = sorted(set(map(_model, keys)) - set(known))
    if removed:
        message = f"Not launched: {_not_in_settings(removed)}"
        logger.warning("Run %s: %s", run.run_id, message)
        instance.report_run_canceled(run, message)
    return bool(removed)


def leave_out_removed_models(instance: dg.DagsterInstance, known: Sequence[str]) -> None:
    """Replace the unfinished backfills that contain removed models.

    If Dagster's storage fails, log one warning and return, so that the daemon starts.

    Args:
        instance: the instance that has the backfills.
        known: the models of LLM_MODELS_STR.
    """
    try:
        _replace_backfills(instance, known)
    except STORAGE_ERRORS as error:
        logger.warning(
            "Could not check unfinished backfills for models that LLM_MODELS_STR no longer names."
            " A backfill with such a model will fail; restart the daemon to check again."
            " Reason: %s",
            storage_error_message(error),
        )


def _replace_backfills(instance: dg.DagsterInstance, known: Sequence[str]) -> None:
    requested = BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED])
    for backfill in instance.get_backfills(filters=requested):
        data = backfill.asset_backfill_data
        if data is None:
            continue
        removed = sorted(_models(data.target_subset) - set(known))
        if removed:
            _replace(instance, backfill, data, removed)


def _replace(
    instance: dg.DagsterInstance,
    backfill: PartitionBackfill,
    data: AssetBackfillData,
    removed: Sequence[str],
) -> None:
    """Cancel a backfill, and add one that does its remaining work for the remaining models."""
    message = f"{_not_in_settings(removed)}, so its partitions are left out"
    rest = _rest(data, removed)
    if rest.is_empty:
        message += "; the other models have no work left"
    else:
        successor = _successor(instance, backfill, rest)
        # Added first: if this process dies between the two steps, some partitions belong to two
        # backfills, which share the work. Otherwise they would belong to none.
        instance.add_backfill(successor)
        message += f"; backfill {successor.backfill_id} continues with the other models"
    logger.warning("Backfill %s is canceled: %s", backfill.backfill_id, message)
    instance.update_backfill(
        backfill._replace(
            status=BulkActionStatus.CANCELED,
            error=SerializableErrorInfo(message, [], None),
            backfill_end_timestamp=get_current_timestamp(),
        )
    )
    _cancel_runs(instance, backfill.backfill_id, message)


def _successor(
    instance: dg.DagsterInstance, backfill: PartitionBackfill, rest: AssetGraphSubset
) -> PartitionBackfill:
    now = get_current_timestamp()
    return PartitionBackfill(
        backfill_id=make_new_backfill_id(),
        status=BulkActionStatus.REQUESTED,
        from_failure=False,
        tags=dict(backfill.tags),
        backfill_timestamp=now,
        asset_selection=backfill.asset_selection,
        title=backfill.title,
        description=backfill.description,
        run_config=backfill.run_config,
        asset_backfill_data=AssetBackfillData.empty(rest, now, instance),
    )


def _rest(data: AssetBackfillData, removed: Collection[str]) -> AssetGraphSubset:
    """Return the partitions of the remaining models that a backfill has not materialized yet."""
    targeted, materialized = _keys(data.target_subset), _keys(data.materialized_subset)
    # A partition that one asset lacks is requested for all assets. They skip stored windows.
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


def _cancel_runs(instance: dg.DagsterInstance, backfill_id: str, message: str) -> None:
    """Cancel the queued runs and the retries of failed runs: the new backfill replaces them."""
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
    return split_partition_key(partition_key)[1]


def _not_in_settings(removed: Sequence[str]) -> str:
    return f"LLM_MODELS_STR no longer names {', '.join(map(repr, removed))}"
