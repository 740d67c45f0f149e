"""Concurrent runs over the same windows: nothing is stored or sent twice, no run is blocked."""

import multiprocessing
from collections import Counter
from datetime import UTC, datetime
from multiprocessing.synchronize import Barrier
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from sim_pipeline.config import Settings, read_settings
from sim_pipeline.dagster_instance.run_tags import range_tags
from sim_pipeline.definitions import build_defs
from sim_pipeline.metrics import METRICS
from sim_pipeline.orchestration.jobs.simulation import SIMULATION_JOB
from sim_pipeline.store.connection import Postgres
from sim_pipeline_tests.support.queue_reader import Received, drain

DAYS = datetime(2026, 11, 20, tzinfo=UTC).date(), datetime(2026, 11, 21, tzinfo=UTC).date()
WINDOWS = 2 * 2 * 24 * 6

_processes = multiprocessing.get_context("spawn")


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return settings with so many values that each run writes several batches by COPY."""
    monkeypatch.setenv("SIMULATION_INTERVAL", "600")
    monkeypatch.setenv("NUM_DATA_POINTS", "250")
    return read_settings(settings.model_dump(include={"rabbitmq_queue"}))


def _run(barrier: Barrier, overrides: dict[str, Any], scope: dict[str, Any]) -> None:
    settings = read_settings(overrides)
    job = build_defs(settings).resolve_job_def(SIMULATION_JOB)
    with dg.DagsterInstance.ephemeral() as instance:
        barrier.wait()
        job.execute_in_process(
            instance=instance,
            tags=range_tags(settings.llm_models, *DAYS),
            run_config={"resources": {"scope": {"config": scope}}},
        )


def run_at_once(*runs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Start one process for each run, begin all runs at the same time, and wait for them.

    Args:
        runs: for each run, the settings to override and its scope.
    """
    barrier = _processes.Barrier(len(runs))
    processes = [
        _processes.Process(target=_run, args=(barrier, overrides, scope))
        for overrides, scope in runs
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes), "see stderr"


def assert_consistent(postgres: Postgres, messages: list[Received]) -> None:
    """Assert that each window is stored once and published, and its last message has its rows."""
    with postgres.engine.connect() as connection:
        rows = connection.execute(
            sa.text(
                "SELECT message_id::text, published_at, count(*) AS rows,"
                ' jsonb_object_agg(metric, "values" ->> 0) AS firsts'
                ' FROM deliveries JOIN (SELECT llm_name, metric, to_jsonb("values") AS "values",'
                ' "timestamp" FROM simulation_results) AS r USING (llm_name, "timestamp")'
                " GROUP BY 1, 2"
            )
        ).all()
    assert len(rows) == WINDOWS
    bodies = {message.message_id: message.body for message in messages}
    for row in rows:
        assert row.published_at is not None
        assert row.rows == len(METRICS)
        body = bodies[row.message_id]
        assert {series["metric"]: float(series["values"][0]) for series in body} == {
            metric: float(first) for metric, first in row.firsts.items()
        }


def test_concurrent_runs_store_and_send_each_window_once(
    settings: Settings, postgres: Postgres
) -> None:
    tick = {"since": "2026-11-20T06:00:00Z", "until": "2026-11-21T18:00:00Z", "replace": False}
    run_at_once(({}, {}), ({}, {}), ({}, tick), ({}, {"force": True}))
    messages = drain(settings)
    assert len(messages) == WINDOWS
    assert_consistent(postgres, messages)


def test_concurrent_runs_with_different_seeds_do_not_mix(
    settings: Settings, postgres: Postgres
) -> None:
    run_at_once(
        ({"random_seed": 1}, {}), ({"random_seed": 2}, {}), ({"random_seed": 3}, {"force": True})
    )
    messages = drain(settings)
    assert set(Counter(message.message_id for message in messages).values()) == {1}
    assert WINDOWS <= len(messages) <= 3 * WINDOWS
    assert_consistent(postgres, messages)


def test_concurrent_resends_send_each_window_twice_at_most(
    settings: Settings, postgres: Postgres
) -> None:
    run_at_once(({}, {}))
    drain(settings)
    run_at_once(({}, {"resend": True}), ({}, {"resend": True}), ({}, {}))
    messages = drain(settings)
    counts = Counter(message.message_id for message in messages)
    assert len(counts) == WINDOWS
    assert set(counts.values()) <= {1, 2}
    assert_consistent(postgres, messages)
