"""Runs of the job `what_if`: their metadata, and that they write nothing else."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pika
import pytest
from dagster._core.storage.tags import MAX_RETRIES_TAG, PRIORITY_TAG

from sim_pipeline.config import Settings
from sim_pipeline.dagster_instance.run_history import remove_history
from sim_pipeline.definitions import build_defs
from sim_pipeline.local_servers.rabbitmq import LocalRabbitMQ
from sim_pipeline.metrics import METRICS, UNITS
from sim_pipeline.orchestration.jobs.simulation import SIMULATION_JOB as SIMULATION
from sim_pipeline.simulator.catalogue import MODELS
from sim_pipeline.simulator.profiles import Slo
from sim_pipeline.simulator.simulation import simulate
from sim_pipeline.store.connection import Postgres
from sim_pipeline.what_if.form import WhatIf
from sim_pipeline.what_if.job import OP_NAME, WHAT_IF_JOB
from sim_pipeline_tests.support.stored_windows import fetch

PERIOD = {"since": "2026-11-20T00:00:00Z", "until": "2026-11-21T00:00:00Z"}
TITLES = [f"{metric} [{UNITS[metric]}]" for metric in METRICS]


@pytest.fixture
def offline(clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> Settings:  # noqa: ARG001
    """Settings whose servers do not exist: a what-if needs none."""
    return Settings(
        postgres_port=9, rabbitmq_port=9, llm_models="GPT-4o,Llama-3.1-8B", _env_file=None
    )


def what_if(
    settings: Settings,
    instance: dg.DagsterInstance,
    *,
    raise_on_error: bool = True,
    **form: Any,
) -> dg.ExecuteInProcessResult:
    return (
        build_defs(settings)
        .resolve_job_def(WHAT_IF_JOB)
        .execute_in_process(
            instance=instance,
            run_config={"ops": {OP_NAME: {"config": PERIOD | form}}},
            raise_on_error=raise_on_error,
        )
    )


def metadata_of(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (event,) = (event for event in result.all_events if event.is_successful_output)
    return {name: value.value for name, value in event.step_output_data.metadata.items()}


def cells(table: str) -> dict[str, list[str]]:
    """Return the rows of a Markdown table by their first cell, without its header."""
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines()]
    return {first: rest for first, *rest in rows[2:]}


def test_same_inputs_give_no_change(offline: Settings, ephemeral: dg.DagsterInstance) -> None:
    found = metadata_of(what_if(offline, ephemeral, seed=42, points=5))
    assert found["largest change"] == "none, the metrics are the same"
    assert list(found)[:2] == ["largest change", "plot"]
    assert list(found)[2:6] == TITLES
    assert (found["since"], found["until"]) == (
        "2026-11-20T00:00:00Z",
        "2026-11-21T00:00:00Z",
    )
    assert found["windows per model"] == 24
    inputs = cells(found["inputs"])
    assert list(inputs) == ["seed", "points", "profiles", "digest"]
    assert all(current == other for current, other in inputs.values())
    for title in TITLES:
        rows = cells(found[title])
        assert list(rows) == ["GPT-4o", "Llama-3.1-8B"]
        for p50, other_p50, change, p95, other_p95, change95 in rows.values():
            assert (p50, p95) == (other_p50, other_p95)
            assert (change, change95) == ("none", "none")
            assert 0 < float(p50) < float(p95)
    assert found["plot"].startswith("![plot](data:image/png;base64,")


def test_another_seed_gives_other_values_reproducibly(
    offline: Settings, ephemeral: dg.DagsterInstance
) -> None:
    first = metadata_of(what_if(offline, ephemeral, seed=7))
    assert metadata_of(what_if(offline, ephemeral, seed=7)) == first
    for title in TITLES:
        for row in cells(first[title]).values():
            assert row[0] != row[1]
    assert cells(first["inputs"])["seed"] == ["42", "7"]
    current, digest = cells(first["inputs"])["digest"]
    other = metadata_of(what_if(offline.model_copy(update={"random_seed": 7}), ephemeral, seed=42))
    assert cells(other["inputs"])["digest"] == [digest, current]


def test_incident_slows_only_its_model(offline: Settings, ephemeral: dg.DagsterInstance) -> None:
    incident = {
        "model": "GPT-4o",
        "start": PERIOD["since"],
        "end": PERIOD["until"],
        "capacity_factor": 0.5,
    }
    found = metadata_of(what_if(offline, ephemeral, profiles={"incidents": [incident]}))
    for metric, title in zip(METRICS, TITLES, strict=True):
        rows = cells(found[title])
        assert {rows["Llama-3.1-8B"][2], rows["Llama-3.1-8B"][5]} == {"none"}
        p50 = float(rows["GPT-4o"][2].removesuffix("%"))
        assert (p50 < -5) if metric in {"TPS", "RPS"} else (p50 > 5)
    assert re.fullmatch(
        r"GPT-4o \w+ p\d\d: [\d.]+ to [\d.]+ \S+, [+-]\d+\.\d%", found["largest change"]
    )


def test_slos_of_the_form_change_only_attainment_and_goodput(
    offline: Settings, ephemeral: dg.DagsterInstance
) -> None:
    models = {"GPT-4o": {"slo": {"ttft": 0.4}}}
    found = metadata_of(what_if(offline, ephemeral, profiles={"models": models}))
    assert found["largest change"] == "none, the metrics are the same"
    rows = cells(found["SLO attainment, goodput [requests/s]"])
    attainment, other, goodput, other_goodput, change = rows["GPT-4o"]
    assert float(attainment.rstrip("%")) > 90
    assert 30 < float(other.rstrip("%")) < 60
    assert float(change.rstrip("%")) / 100 == pytest.approx(
        float(other_goodput) / float(goodput) - 1, abs=1e-3
    )
    attainment, other, goodput, other_goodput, change = rows["Llama-3.1-8B"]
    assert (attainment, goodput, "none") == (other, other_goodput, change)


def test_attainment_equals_that_of_the_simulated_points(
    offline: Settings, ephemeral: dg.DagsterInstance
) -> None:
    limits = Slo(ttft=0.45, itl=0.013, e2e=3.0)
    form = {"all_models": {"slo": vars(limits)}}
    found = metadata_of(what_if(offline, ephemeral, profiles=form, models=["GPT-4o"]))
    first = int(datetime(2026, 11, 20, tzinfo=UTC).timestamp()) // 3600
    windows = range(first, first + 24)
    simulated = simulate(MODELS["GPT-4o"], windows, interval=3600, points=5, seed=42)
    good = (simulated.ttft <= 0.45) & (1 / simulated.tps <= 0.013) & (simulated.e2e_latency <= 3.0)
    goodput = (good.mean(axis=1) * simulated.rps.mean(axis=1)).mean()
    _, attainment, _, shown, _ = cells(found["SLO attainment, goodput [requests/s]"])["GPT-4o"]
    assert (attainment, shown) == (f"{good.mean():.2%}", f"{goodput:.4g}")


def test_baseline_equals_the_stored_feed(
    settings: Settings, postgres: Postgres, ephemeral: dg.DagsterInstance
) -> None:
    build_defs(settings).resolve_job_def(SIMULATION).execute_in_process(
        instance=ephemeral, partition_key="2026-11-20|GPT-4o"
    )
    stored = fetch(
        postgres,
        "SELECT metric, percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY value)"
        ' FROM simulation_results CROSS JOIN unnest("values") AS value GROUP BY metric',
    )
    found = metadata_of(what_if(settings, ephemeral, seed=7, models=["GPT-4o"]))
    assert {metric: (f"{p50:.3g}", f"{p95:.3g}") for metric, (p50, p95) in stored} == {
        metric: (row[0], row[3])
        for metric, title in zip(METRICS, TITLES, strict=True)
        for row in cells(found[title]).values()
    }


def messages(settings: Settings, server: LocalRabbitMQ) -> int:
    with pika.BlockingConnection(server.connection_parameters()) as connection:
        declared = connection.channel().queue_declare(settings.rabbitmq_queue, passive=True)
        return int(declared.method.message_count)


def test_run_writes_only_its_own_metadata(
    settings: Settings,
    postgres: Postgres,
    rabbitmq_server: LocalRabbitMQ,
    instance: dg.DagsterInstance,
) -> None:
    build_defs(settings).resolve_job_def(SIMULATION).execute_in_process(
        instance=instance, partition_key="2026-11-20|GPT-4o"
    )

    def state() -> list[Any]:
        tables = [
            name
            for (name,) in fetch(
                postgres, "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
            )
        ]
        assert {"simulation_results", "deliveries", "model_comparison"} <= set(tables)
        return [
            [fetch(postgres, f"SELECT * FROM {table} ORDER BY 1") for table in tables],
            fetch(postgres, "SELECT last_value FROM simulation_results_id_seq"),
            messages(settings, rabbitmq_server),
            {
                key.to_user_string(): len(instance.fetch_materializations(key, limit=1000).records)
                for key in instance.get_asset_keys()
            },
        ]

    before = state()
    assert before[2] == 24
    result = what_if(settings, instance, seed=7)
    assert state() == before
    kinds = {event.event_type for event in result.all_events}
    assert not {kind for kind in kinds if kind.value.startswith(("ASSET_", "HANDLED_OUTPUT"))}


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"points": 0}, "points is 0: must be an integer in [1, 10000]"),
        (
            {"profiles": {"all_models": {"measured": "2026-07-10T12:00:00Z"}}},
            (
                "profiles:\n  all_models.measured is '2026-07-10T12:00:00Z': must be a date such"
                " as 2026-07-10"
            ),
        ),
        (
            {"profiles_file": "/nowhere/p.toml"},
            (
                "profiles_file: /nowhere/p.toml: cannot be read: [Errno 2] No such file or"
                " directory: '/nowhere/p.toml'"
            ),
        ),
    ],
)
def test_invalid_form_fails_the_run_before_simulating(
    offline: Settings, ephemeral: dg.DagsterInstance, form: dict[str, Any], message: str
) -> None:
    result = what_if(offline, ephemeral, raise_on_error=False, **form)
    (failure,) = (event for event in result.all_events if event.is_step_failure)
    assert failure.step_failure_data.user_failure_data is not None
    assert failure.step_failure_data.user_failure_data.description == message
    assert not [event for event in result.all_events if event.is_successful_output]


def test_launchpad_is_prefilled_with_every_field(
    offline: Settings,
) -> None:
    job = build_defs(offline).resolve_job_def(WHAT_IF_JOB)
    assert job.run_config == {
        "ops": {
            OP_NAME: {
                "config": {
                    "seed": 42,
                    "points": 5,
                    "profiles": {},
                    "profiles_file": "",
                    "models": ["GPT-4o", "Llama-3.1-8B"],
                    "since": "",
                    "until": "",
                }
            }
        }
    }
    assert set(job.run_config["ops"][OP_NAME]["config"]) == set(WhatIf.model_fields)


def test_job_has_low_priority_and_no_retries(offline: Settings) -> None:
    tags = build_defs(offline).resolve_job_def(WHAT_IF_JOB).tags
    assert int(tags[PRIORITY_TAG]) < 0
    assert tags[MAX_RETRIES_TAG] == "0"


def test_retention_removes_its_runs(offline: Settings, instance: dg.DagsterInstance) -> None:
    run_id = what_if(offline, instance).run_id
    remove_history(instance, datetime.now(UTC) + timedelta(hours=1))
    assert instance.get_run_by_id(run_id) is None
    assert instance.all_logs(run_id) == []
