"""The run queue as dagster.yaml sets it up: the schedule's runs are launched, whatever waits."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.events import DagsterEvent
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.run_coordinator import SubmitRunContext
from dagster._core.storage.tags import PRIORITY_TAG
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import (
    QueuedRunCoordinatorDaemon,
)

from sim_pipeline.dagster_instance.run_tags import WINDOWS_TAG

PROJECT = Path(__file__).parents[2]
FEED = {WINDOWS_TAG: "2026-11-20T00:00:00Z/2026-11-20T01:00:00Z", PRIORITY_TAG: "100"}
ORIGIN = RemoteJobOrigin(
    RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("sim_pipeline"), "__repository__"), "empty"
)
BACKFILL = {"dagster/backfill": "abcdefgh"}
BY_HAND: dict[str, str] = {}
BACKGROUND = {PRIORITY_TAG: "-1"}


@dg.job
def empty() -> None:
    pass


@pytest.fixture(params=["dagster.yaml", "k8s/base/dagster.yaml"])
def instance(request: pytest.FixtureRequest) -> Iterator[dg.DagsterInstance]:
    """An instance with the queue of one machine, or of Kubernetes."""
    config = yaml.safe_load((PROJECT / request.param).read_text(encoding="utf-8"))
    queue = {name: config[name] for name in ("concurrency", "run_coordinator")}
    with dg.instance_for_test(overrides=queue) as instance:
        yield instance


def submit(instance: dg.DagsterInstance, tags: dict[str, str], runs: int = 1) -> set[str]:
    """Queue some runs; return their ids."""
    found = [
        instance.create_run_for_job(
            empty,
            tags=tags,
            remote_job_origin=ORIGIN,
            job_code_origin=dg.reconstructable(empty).get_python_origin(),
        )
        for _ in range(runs)
    ]
    for run in found:
        instance.run_coordinator.submit_run(SubmitRunContext(run, workspace=None))  # type: ignore[arg-type]
    return {run.run_id for run in found}


def to_be_launched(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    daemon = QueuedRunCoordinatorDaemon(interval_seconds=1)
    return daemon._get_runs_to_dequeue(  # noqa: SLF001 - what is public launches them
        instance, instance.get_concurrency_config(), fixed_iteration_time=None
    )


def launch(instance: dg.DagsterInstance) -> set[str]:
    """Start what Dagster's daemon launches when it polls the queue; return the ids."""
    runs = to_be_launched(instance)
    for run in runs:
        instance.report_dagster_event(
            DagsterEvent(dg.DagsterEventType.RUN_STARTING.value, run.job_name), run.run_id
        )
    return {run.run_id for run in runs}


@pytest.mark.parametrize("others", [[BACKFILL], [BY_HAND], [BACKFILL, BY_HAND, BACKGROUND]])
def test_the_feed_finds_a_slot(instance: dg.DagsterInstance, others: list[dict[str, str]]) -> None:
    for tags in others:
        submit(instance, tags, runs=12)
    assert launch(instance)
    assert not launch(instance)
    # The second one is of the next tick, while the first one hangs.
    for _ in range(2):
        tick = submit(instance, FEED)
        assert launch(instance) == tick


def test_other_runs_are_launched_beside_a_backfill(instance: dg.DagsterInstance) -> None:
    submit(instance, BACKFILL, runs=12)
    launch(instance)
    background = submit(instance, BACKGROUND)
    assert launch(instance) == background


def test_the_feed_is_launched_first(instance: dg.DagsterInstance) -> None:
    submit(instance, {**BY_HAND, PRIORITY_TAG: "50"}, runs=2)
    tick = submit(instance, FEED)
    first, *_ = to_be_launched(instance)
    assert {first.run_id} == tick
