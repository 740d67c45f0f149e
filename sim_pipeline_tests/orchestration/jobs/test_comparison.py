"""The job `comparison`: what a run stores, shows and warns of; when its schedule requests one."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._utils.schedules import cron_string_iterator

from sim_pipeline.config import Settings
from sim_pipeline.dagster_instance.run_tags import range_tags
from sim_pipeline.definitions import build_defs
from sim_pipeline.metrics import UNITS
from sim_pipeline.orchestration.jobs.comparison import COMPARISON_JOB, COMPARISON_SCHEDULE
from sim_pipeline.orchestration.jobs.simulation import SIMULATION_JOB as SIMULATION
from sim_pipeline.store.connection import Postgres
from sim_pipeline_tests.support.stored_windows import execute, fetch

END = datetime(2026, 11, 20, 16, tzinfo=UTC)
TICK = END + timedelta(minutes=2)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


def feed(settings: Settings, instance: dg.DagsterInstance, hours: int) -> None:
    """Simulate, store and publish the last `hours` windows before END."""
    since = END - timedelta(hours=hours)
    build_defs(settings).resolve_job_def(SIMULATION).execute_in_process(
        instance=instance,
        tags=range_tags(settings.llm_models, since.date(), END.date()),
        run_config={
            "resources": {
                "scope": {"config": {"since": since.isoformat(), "until": END.isoformat()}}
            }
        },
    )


def compare(
    settings: Settings, instance: dg.DagsterInstance, *, raise_on_error: bool = True
) -> dg.ExecuteInProcessResult:
    return (
        build_defs(settings)
        .resolve_job_def(COMPARISON_JOB)
        .execute_in_process(instance=instance, raise_on_error=raise_on_error)
    )


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (event,) = result.asset_materializations_for_node("model_comparison")
    return {name: entry.value for name, entry in event.metadata.items()}


def tick(settings: Settings, instance: dg.DagsterInstance) -> dg.RunRequest | str:
    """Evaluate the schedule; return its run request or its skip message."""
    defs = build_defs(settings)
    schedule = defs.resolve_schedule_def(COMPARISON_SCHEDULE)
    with dg.build_schedule_context(
        instance=instance,
        repository_def=defs.get_repository_def(),
        scheduled_execution_time=TICK,
        resources={"results": (defs.resources or {})["results"]},
    ) as context:
        result = schedule.evaluate_tick(context)
    if result.run_requests:
        (request,) = result.run_requests
        return request
    return str(result.skip_message)


def test_run_stores_and_shows_the_ranking(
    settings: Settings, postgres: Postgres, instance: dg.DagsterInstance
) -> None:
    feed(settings, instance, 30)
    result = compare(settings, instance)
    shown = metadata(result)
    assert shown["compared up to"] == END.timestamp()
    rows = fetch(
        postgres,
        "SELECT metric, rank, llm_name, points FROM model_comparison"
        " WHERE hours = 24 AND compared_at = :at",
        at=END,
    )
    assert len(rows) == 4 * 2
    assert {points for *_, points in rows} == {24 * settings.num_data_points}
    for metric, rank, llm_name, _ in rows:
        title = f"{metric} [{UNITS[metric]}], last 24 hours"
        assert f"| {rank} | {llm_name} | " in shown[title]
    for plot in ("last 24 hours, plot", "last 7 days, plot"):
        assert shown[plot].startswith("![plot](data:image/png;base64,")
        assert len(shown[plot]) < 60_000
    (check,) = result.get_asset_check_evaluations()
    assert (check.passed, check.blocking) == (True, False)


def test_run_shows_how_the_models_keep_their_limits(
    settings: Settings, postgres: Postgres, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    feed(settings, instance, 30)
    stored = "SELECT llm_name, workload, ttft, itl, e2e FROM slos ORDER BY 1"
    # The run that simulates stores the limits.
    assert fetch(postgres, stored) == [
        ("GPT-4o", "chat-2023", 2.0, 0.2, None),
        ("Llama-3.1-8B", "chat-2023", 2.0, 0.2, None),
    ]
    file = tmp_path / "fleet.yaml"
    file.write_text("models: {GPT-4o: {slo: {ttft: 0.4}}, Llama-3.1-8B: {slo: {}}}")
    shown = metadata(compare(settings.model_copy(update={"model_profiles_file": file}), instance))
    # The comparison stores those of the changed file, and applies them to the stored windows.
    assert fetch(postgres, stored) == [("GPT-4o", "chat-2023", 0.4, None, None)]
    ((attainment, goodput),) = fetch(
        postgres,
        "SELECT CAST(sum(good) / sum(points) AS double precision), avg(goodput)"
        ' FROM slo_attainment WHERE "timestamp" >= :since',
        since=END - timedelta(hours=24),
    )
    assert 0.2 < attainment < 0.8
    heads, _, *rows = shown["SLO attainment, last 24 hours"].splitlines()
    assert heads.startswith("| model | class | TTFT/ITL/e2e [s] | attainment | goodput")
    (row,) = rows
    assert row.startswith(f"| GPT-4o | chat-2023 | 0.4/-/- | {attainment:.2%} | {goodput:.4g} | 0.")
    assert len(shown["SLO attainment, last 7 days"].splitlines()) == 3


def test_incident_raises_a_warning(
    settings: Settings, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(
        """
        [[incidents]]
        model = "GPT-4o"
        start = 2026-11-20T12:00:00Z
        end = 2026-11-20T17:00:00Z
        capacity_factor = 0.3
        """
    )
    settings = settings.model_copy(update={"model_profiles_file": file})
    feed(settings, instance, 192)
    result = compare(settings, instance)
    assert result.success
    (check,) = result.get_asset_check_evaluations()
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert check.description is not None
    assert "GPT-4o TPS 2026-11-20T13:00Z to 2026-11-20T16:00Z: p50 " in check.description
    assert "Llama" not in check.description
    assert check.metadata["GPT-4o TPS p50 / limit"].value == pytest.approx(0.94, abs=0.05)


def test_ordinary_week_raises_no_warning(settings: Settings, instance: dg.DagsterInstance) -> None:
    feed(settings, instance, 192)
    (check,) = compare(settings, instance).get_asset_check_evaluations()
    assert check.passed
    assert check.description is None


def test_run_without_results_fails_with_advice(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    result = compare(settings, instance, raise_on_error=False)
    assert not result.success
    (failed,) = (event for event in result.all_events if event.is_step_failure)
    assert "materialize metric_frames" in str(failed.step_failure_data.error)


def test_old_comparisons_are_removed(
    settings: Settings, postgres: Postgres, instance: dg.DagsterInstance
) -> None:
    feed(settings, instance, 2)
    compare(settings, instance)
    execute(postgres, "UPDATE model_comparison SET compared_at = now() - interval '40 days'")
    compare(settings, instance)
    assert fetch(postgres, "SELECT count(DISTINCT compared_at) FROM model_comparison") == [(2,)]
    compare(settings.model_copy(update={"results_retention_days": 39}), instance)
    assert fetch(
        postgres,
        "SELECT count(*) FROM model_comparison WHERE compared_at < now() - interval '39 days'",
    ) == [(0,)]


def test_tick_requests_one_run_after_each_feed(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    assert tick(settings, instance) == "No window is stored yet"
    feed(settings, instance, 2)
    request = tick(settings, instance)
    assert isinstance(request, dg.RunRequest)
    compare(settings, instance)
    assert "No new window is stored" in str(tick(settings, instance))


def test_backfill_over_history_triggers_nothing(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    feed(settings, instance, 2)
    compare(settings, instance)
    feed(settings, instance, 60)
    assert "No new window is stored" in str(tick(settings, instance))


def test_comparison_in_progress_is_not_repeated(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    feed(settings, instance, 2)
    job = build_defs(settings).resolve_job_def(COMPARISON_JOB)
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    assert tick(settings, instance) == "A comparison is in progress"
    instance.delete_run(run.run_id)
    assert isinstance(tick(settings, instance), dg.RunRequest)


def test_schedule_ticks_shortly_after_the_hour(settings: Settings) -> None:
    schedule = build_defs(settings).resolve_schedule_def(COMPARISON_SCHEDULE)
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    ticks = cron_string_iterator(END.timestamp(), str(schedule.cron_schedule), "UTC")
    assert [next(ticks).minute for _ in range(5)] == [2, 17, 32, 47, 2]
