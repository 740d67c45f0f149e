"""`metric_frames` as a pandas DataFrame: in downstream assets and in a notebook."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from sim_pipeline.config import Settings
from sim_pipeline.dagster_instance.run_tags import range_tags
from sim_pipeline.definitions import build_defs
from sim_pipeline.metrics import METRICS
from sim_pipeline.orchestration.jobs.simulation import SIMULATION_JOB
from sim_pipeline.store.connection import Postgres
from sim_pipeline_tests.support.stored_windows import fetch

DAY = datetime(2026, 11, 20, tzinfo=UTC).date()
NEXT_DAY = DAY.replace(day=21)
FRAMES = dg.AssetKey("metric_frames")


@pytest.fixture
def instance(ephemeral: dg.DagsterInstance) -> dg.DagsterInstance:
    return ephemeral


@pytest.fixture
def stored(settings: Settings, postgres: Postgres, instance: dg.DagsterInstance) -> Postgres:
    """Two days of all models."""
    build_defs(settings).resolve_job_def(SIMULATION_JOB).execute_in_process(
        instance=instance, tags=range_tags(settings.llm_models, DAY, NEXT_DAY)
    )
    return postgres


def with_downstream_asset(settings: Settings, loaded: list[pd.DataFrame]) -> dg.Definitions:
    """Return the pipeline with a user's asset that appends its input to `loaded`."""
    feed = build_defs(settings)

    @dg.asset(
        partitions_def=feed.resolve_assets_def(FRAMES).partitions_def,
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def p95_by_hour(metric_frames: pd.DataFrame) -> None:
        loaded.append(metric_frames)

    job = dg.define_asset_job("p95_job", selection=[p95_by_hour])
    return dg.Definitions.merge(feed, dg.Definitions(assets=[p95_by_hour], jobs=[job]))


def assert_equals_table(frame: pd.DataFrame, postgres: Postgres, days: str, names: Any) -> None:
    """Check that a frame has the stored rows of some days and models, in its documented order."""
    rows = fetch(
        postgres,
        'SELECT llm_name, metric, "values", "timestamp" FROM simulation_results'
        " WHERE llm_name = ANY(:names)"
        f" AND (\"timestamp\" AT TIME ZONE 'UTC')::date IN ({days})"
        ' ORDER BY llm_name, "timestamp", array_position(CAST(:metrics AS text[]), metric)',
        names=list(names),
        metrics=list(METRICS),
    )
    assert list(frame.columns) == ["llm_name", "metric", "values", "timestamp"]
    assert str(frame["timestamp"].dtype).endswith(", UTC]")
    assert [tuple(row) for row in frame.itertuples(index=False)] == [tuple(row) for row in rows]


def test_downstream_asset_gets_a_partition(
    settings: Settings, stored: Postgres, instance: dg.DagsterInstance
) -> None:
    loaded: list[pd.DataFrame] = []
    with_downstream_asset(settings, loaded).resolve_job_def("p95_job").execute_in_process(
        instance=instance, partition_key=f"{DAY}|GPT-4o"
    )
    (frame,) = loaded
    assert len(frame) == 24 * 4
    assert_equals_table(frame, stored, f"'{DAY}'", ["GPT-4o"])


def test_downstream_asset_gets_a_range(
    settings: Settings, stored: Postgres, instance: dg.DagsterInstance
) -> None:
    loaded: list[pd.DataFrame] = []
    with_downstream_asset(settings, loaded).resolve_job_def("p95_job").execute_in_process(
        instance=instance, tags=range_tags(settings.llm_models, DAY, NEXT_DAY)
    )
    (frame,) = loaded
    assert len(frame) == 2 * 48 * 4
    assert_equals_table(frame, stored, f"'{DAY}', '{NEXT_DAY}'", settings.llm_models)


def test_partition_loads_in_a_notebook(settings: Settings, stored: Postgres) -> None:
    key = f"{NEXT_DAY}|Llama-3.1-8B"
    frame: Any = build_defs(settings).load_asset_value(FRAMES, partition_key=key)
    assert isinstance(frame, pd.DataFrame)
    assert_equals_table(frame, stored, f"'{NEXT_DAY}'", ["Llama-3.1-8B"])
    p95 = (
        frame.explode("values").astype({"values": float}).groupby("metric")["values"].quantile(0.95)
    )
    values = np.concatenate(frame.loc[frame["metric"] == "TTFT", "values"].tolist())
    assert p95["TTFT"] == pytest.approx(np.percentile(values, 95))
