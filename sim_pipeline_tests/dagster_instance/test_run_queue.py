"""The run queue of dagster.yaml: runs of the schedule start, whatever else is queued."""

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

from sim_pipeline.dagster_instance.run_tags import REQUEST_TAG, WINDOWS_TAG

PROJECT = Path(__file__).parents[2]
SCHEDULED = {WINDOWS_TAG: "2026-11-20T00:00:00Z/2026-11-20T01:00:00Z", PRIORITY_TAG: "100"}
ORIGIN = RemoteJobOrigin(
    RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("sim_pipeline"), "__repository__"), "empty"
)
BACKFILL = {"dagster/backfill": "abcdefgh"}
COMMAND = {REQUEST_TAG: "2026-11-20T00:00:00Z/2026-11-21T00:00:00Z/abcdefabcdef"}
MANUAL: dict[str, str] = {}
BACKGROUND = {PRIORITY_TAG: "-1"}


@dg.job
def empty() -> None:
    pass


@pytest.fixture(params=["dagster.yaml", "k8s/base/dagster.yaml"])
def instance(request: pytest.FixtureRequest) -> Iterator[dg.DagsterInstance]:
    """An instance with the queue settings of one machine, or of Kubernetes."""
    config = yaml.safe_load((PROJECT / request.param).read_text(encoding="utf-8"))
    queue = {name: config[name] for name in ("concurrency", "run_coordinator")}
    with dg.instance_for_test(overrides=queue) as instance:
        yield instance


def submit(instance: dg.DagsterInstance, tags: dict[str, str], runs: int = 1) -> set[str]:
    """Queue runs; return their ids."""
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
    return daemon._get_runs_to_dequeue(  # noqa: SLF001 - the public method launches them
        instance, instance.get_concurrency_config(), fixed_iteration_time=None
    )


def launch(instance: dg.DagsterInstance) -> set[str]:
    """Mark the runs as started that the daemon would launch now; return their ids."""
    runs = to_be_launched(instance)
    for run in runs:
        instance.report_dagster_event(
            DagsterEvent(dg.DagsterEventType.RUN_STARTING.value, run.job_name), run.run_id
        )
    return {run.run_id for run in runs}


@pytest.mark.parametrize(
    "others", [[BACKFILL], [COMMAND], [MANUAL], [BACKFILL, COMMAND, MANUAL, BACKGROUND]]
)
def test_schedule_finds_a_slot(instance: dg.DagsterInstance, others: list[dict[str, str]]) -> None:
    for tags in others:
        submit(instance, tags, runs=12)
    assert launch(instance)
    assert not launch(instance)
    # The second run belongs to the next tick, while the first run hangs.
    for _ in range(2):
        tick = submit(instance, SCHEDULED)
        assert launch(instance) == tick


@pytest.mark.parametrize("backfill", [BACKFILL, COMMAND])
def test_other_runs_start_beside_a_backfill(
    instance: dg.DagsterInstance, backfill: dict[str, str]
) -> None:
    submit(instance, backfill, runs=12)
    launch(instance)
    background = submit(instance, BACKGROUND)
    assert launch(instance) == background


@pytest.mark.parametrize("kinds", [[BACKFILL, COMMAND], [COMMAND, BACKFILL]])
def test_backfills_share_one_limit(
    instance: dg.DagsterInstance, kinds: list[dict[str, str]]
) -> None:
    first, second = kinds
    submit(instance, first, runs=12)
    assert launch(instance)
    submit(instance, second, runs=12)
    assert not launch(instance)


@pytest.mark.parametrize(
    "other",
    [
        {**MANUAL, PRIORITY_TAG: "50"},
        # Whatever priority a user gives to a backfill.
        {**BACKFILL, PRIORITY_TAG: "200"},
        {**COMMAND, PRIORITY_TAG: "200"},
    ],
)
def test_schedule_starts_first(instance: dg.DagsterInstance, other: dict[str, str]) -> None:
    submit(instance, other, runs=2)
    tick = submit(instance, SCHEDULED)
    first, *_ = to_be_launched(instance)
    assert {first.run_id} == tick
