"""Runs of the simulation job against a real database and a real broker."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pika.exceptions
import pytest
import sqlalchemy as sa
from alembic import command

from sim_pipeline.config import Settings
from sim_pipeline.dagster_instance.run_tags import range_tags
from sim_pipeline.definitions import build_defs
from sim_pipeline.feed.selection import select
from sim_pipeline.feed.simulate import MetricFrames
from sim_pipeline.metrics import METRICS
from sim_pipeline.orchestration.jobs.simulation import SIMULATION_JOB, missing_windows
from sim_pipeline.orchestration.resources import RunScope
from sim_pipeline.simulator import fingerprint
from sim_pipeline.simulator.profiles_file import read_profiles
from sim_pipeline.simulator.simulation import simulate
from sim_pipeline.store.batches import WindowBatch
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.migrations import alembic_config, upgrade
from sim_pipeline.store.schema import deliveries, simulation_results
from sim_pipeline.windows import EPOCH, Cadence
from sim_pipeline_tests.support.queue_reader import drain
from sim_pipeline_tests.support.stored_windows import HOUR, execute, stored_counts

DAY = datetime(2026, 11, 20, tzinfo=UTC)
KEY = "2026-11-20|GPT-4o"
# The number of the day's first window at one an hour.
FIRST = (DAY - EPOCH) // HOUR


@pytest.fixture
def instance(ephemeral: dg.DagsterInstance) -> dg.DagsterInstance:
    return ephemeral


def run(
    settings: Settings,
    instance: dg.DagsterInstance,
    *,
    key: str | None = None,
    tags: dict[str, str] | None = None,
    raise_on_error: bool = True,
    **scope: Any,
) -> dg.ExecuteInProcessResult:
    return (
        build_defs(settings)
        .resolve_job_def(SIMULATION_JOB)
        .execute_in_process(
            instance=instance,
            partition_key=key,
            tags=tags,
            run_config={"resources": {"scope": {"config": scope}}},
            raise_on_error=raise_on_error,
        )
    )


def rows(postgres: Postgres) -> list[Any]:
    with postgres.engine.connect() as connection:
        return list(
            connection.execute(
                sa.text(
                    'SELECT id, llm_name, metric, "values" AS data, "timestamp" AS window_start'
                    ' FROM simulation_results ORDER BY llm_name, "timestamp", id'
                )
            )
        )


def ledger(postgres: Postgres) -> list[Any]:
    with postgres.engine.connect() as connection:
        return list(
            connection.execute(
                sa.text(
                    'SELECT llm_name, "timestamp" AS window_start, message_id, published_at'
                    ' FROM deliveries ORDER BY llm_name, "timestamp"'
                )
            )
        )


def test_partition_is_stored_and_published(
    settings: Settings, postgres: Postgres, instance: dg.DagsterInstance
) -> None:
    assert run(settings, instance, key=KEY).success
    stored = rows(postgres)
    assert len(stored) == 24 * 4
    assert {row.llm_name for row in stored} == {"GPT-4o"}
    assert [row.metric for row in stored[:4]] == list(METRICS)
    assert all(len(row.data) == settings.num_data_points for row in stored)
    assert sorted({row.window_start for row in stored}) == [
        DAY + timedelta(hours=h) for h in range(24)
    ]

    messages = drain(settings)
    assert len(messages) == 24
    assert [message.body for message in messages] == [
        [
            {
                "llm_name": "GPT-4o",
                "metric": row.metric,
                "values": row.data,
                "timestamp": row.window_start.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            }
            for row in stored[first : first + 4]
        ]
        for first in range(0, len(stored), 4)
    ]
    entries = ledger(postgres)
    assert [str(entry.message_id) for entry in entries] == [one.message_id for one in messages]
    assert all(entry.published_at is not None for entry in entries)


def test_request_counts_are_those_of_the_simulation(
    settings: Settings, postgres: Postgres, instance: dg.DagsterInstance
) -> None:
    windows = FIRST + np.arange(24)
    for seed in (42, 43):
        run(settings.model_copy(update={"random_seed": seed}), instance, key=KEY)
        simulation = simulate(
            read_profiles(None, ["GPT-4o"])["GPT-4o"],
            windows,
            interval=3600,
            points=settings.num_data_points,
            seed=seed,
        )
        counts = np.column_stack([simulation.completed, simulation.failed]).tolist()
        assert counts[0][0] > 0
        assert stored_counts(postgres) == [
            ("GPT-4o", DAY + timedelta(hours=hour), *of_hour) for hour, of_hour in enumerate(counts)
        ]


def test_second_run_has_no_effect(
    settings: Settings, postgres: Postgres, instance: dg.DagsterInstance
) -> None:
    run(settings, instance, key=KEY)
    before, sent = rows(postgres), ledger(postgres)
    drain(settings)
    run(settings, instance, key=KEY)
    assert rows(postgres) == before
    assert ledger(postgres) == sent
    assert drain(settings) == []
    with postgres.engine.connect() as connection:
        burned = connection.execute(sa.text("SELECT last_value FROM simulation_results_id_seq"))
        assert burned.scalar_one() == len(before)


def test_another_seed_replaces_and_publishes(
    settings: Settings, postgres: Postgres, instance: dg.DagsterInstance
) -> None:
    run(settings, instance, key=KEY)
    before, first = rows(postgres), drain(settings)
    run(settings.model_copy(update={"random_seed": 43}), instance, key=KEY)
    after, second = rows(postgres), drain(settings)
    assert [row.window_start for row in after] == [row.window_start for row in before]
    assert all(new.data != old.data for new, old in zip(after, before, strict=True))
    assert len(second) == len(first)
    assert not {one.message_id for one in first} & {one.message_id for one in second}


def test_replace_false_keeps_stored_windows(
    settings: Settings, postgres: Postgres, instance: dg.DagsterInstance
) -> None:
    run(settings, instance, key=KEY)
    before = rows(postgres)
    drain(settings)
    run(settings.model_copy(update={"random_seed": 43}), instance, key=KEY, replace=False)
    assert rows(postgres) == before
    assert drain(settings) == []


def test_windows_of_an_earlier_simulator_stay(
    settings: Settings,
    postgres: Postgres,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At noon, the simulator is replaced. The runs of the schedule do not set `replace`."""
    noon = (DAY + 12 * HOUR).isoformat()
    with monkeypatch.context() as earlier:
        earlier.setattr(fingerprint, "SIMULATOR_VERSION", fingerprint.SIMULATOR_VERSION - 1)
        run(settings, instance, key=KEY, until=noon)
    before, sent = rows(postgres), drain(settings)
    assert len(before) == 12 * 4

    run(settings, instance, key=KEY, replace=False)
    after = rows(postgres)
    assert after[: 12 * 4] == before
    assert [row.window_start for row in after[::4]] == [DAY + hour * HOUR for hour in range(24)]
    assert len(drain(settings)) == 12

    # A manual materialization replaces them.
    run(settings, instance, key=KEY)
    replaced = drain(settings)
    assert len(rows(postgres)) == 24 * 4
    assert len(replaced) == 12
    assert not {one.message_id for one in replaced} & {one.message_id for one in sent}


def test_range_of_partitions_is_one_run(
    settings: Settings, postgres: Postgres, instance: dg.DagsterInstance
) -> None:
    tags = range_tags(settings.llm_models, DAY.date(), DAY.date() + timedelta(days=1))
    result = run(settings, instance, tags=tags)
    assert len(rows(postgres)) == 2 * 48 * 4
    assert len(drain(settings)) == 2 * 48
    materialized = [
        event.partition
        for event in result.all_events
        if event.is_step_materialization and event.asset_key == dg.AssetKey("metric_frames")
    ]
    assert sorted(map(str, materialized)) == [
        f"2026-11-{day}|{model}" for day in (20, 21) for model in sorted(settings.llm_models)
    ]


def test_since_and_until_narrow_a_run(
    settings: Settings, postgres: Postgres, instance: dg.DagsterInstance
) -> None:
    run(
        settings, instance, key=KEY, since="2026-11-20T05:00:00Z", until="2026-11-20T09:00:00+02:00"
    )
    assert {row.window_start.hour for row in rows(postgres)} == {5, 6}
    assert len(drain(settings)) == 2


def test_invalid_timestamp_is_rejected(settings: Settings, instance: dg.DagsterInstance) -> None:
    with pytest.raises(dg.DagsterError) as raised:
        run(settings, instance, key=KEY, since="yesterday")
    assert (
        "'yesterday': allowed is an ISO 8601 date or time, UTC unless it names its zone, such as"
    ) in str(raised.value.__cause__)


def test_todays_partition_has_the_ended_windows(
    settings: Settings, postgres: Postgres, instance: dg.DagsterInstance
) -> None:
    began = datetime.now(UTC)
    minutely = settings.model_copy(update={"simulation_interval": 60})
    day = began.date()
    since = began - timedelta(minutes=10)
    run(
        minutely,
        instance,
        tags=range_tags(settings.llm_models, since.date(), day),
        since=since.isoformat(),
    )
    last = max(row.window_start for row in rows(postgres))
    assert began - timedelta(minutes=2) < last <= datetime.now(UTC) - timedelta(minutes=1)


def test_force_rewrites_rows_without_publishing(
    settings: Settings, postgres: Postgres, instance: dg.DagsterInstance
) -> None:
    run(settings, instance, key=KEY)
    before, sent = rows(postgres), ledger(postgres)
    drain(settings)
    with postgres.engine.begin() as connection:
        connection.execute(
            sa.text("""UPDATE simulation_results SET "values" = '{1}' WHERE metric = 'TTFT'""")
        )
    run(settings, instance, key=KEY, force=True)
    assert [row.data for row in rows(postgres)] == [row.data for row in before]
    assert ledger(postgres) == sent
    assert drain(settings) == []


def test_resend_publishes_the_same_ids_again(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    run(settings, instance, key=KEY)
    first = drain(settings)
    run(settings, instance, key=KEY, resend=True)
    assert [one.message_id for one in drain(settings)] == [one.message_id for one in first]


@pytest.mark.parametrize(
    ("damage", "check"),
    [
        ("""UPDATE simulation_results SET "values"[2] = 'NaN' WHERE metric = 'RPS'""", "values"),
        ("""UPDATE simulation_results SET "values"[1] = 0 WHERE metric = 'TTFT'""", "values"),
        (
            """
            CREATE RULE lost AS ON INSERT TO simulation_results
            WHERE metric = 'TPS' DO INSTEAD NOTHING
            """,
            "windows",
        ),
    ],
)
def test_failed_check_blocks_publishing(
    settings: Settings,
    postgres: Postgres,
    instance: dg.DagsterInstance,
    damage: str,
    check: str,
) -> None:
    hour: dict[str, Any] = {"since": "2026-11-20T05:00:00Z", "until": "2026-11-20T06:00:00Z"}
    if damage.startswith("UPDATE"):
        run(settings, instance, key=KEY, **hour)
        drain(settings)
    with postgres.engine.begin() as connection:
        connection.execute(sa.text(damage))
    result = run(settings, instance, key=KEY, raise_on_error=False, resend=True, **hour)
    assert not result.success
    failed = [one for one in result.get_asset_check_evaluations() if not one.passed]
    assert [one.check_name.split("_")[0] for one in failed] == [check]
    assert "`GPT-4o 2026-11-20T05:00:00Z" in str(failed[0].description)
    assert drain_if_there(settings) == []


def drain_if_there(settings: Settings) -> list[Any]:
    """Return the queue's messages. A queue that was never published to does not exist."""
    try:
        return list(drain(settings))
    except pika.exceptions.ChannelClosedByBroker:
        return []


def test_default_config_has_no_password(settings: Settings) -> None:
    repository = build_defs(settings).get_repository_def()
    shown = repr(
        [
            definition.config_schema.default_value
            for definition in repository.get_top_level_resources().values()
            if definition.config_schema.default_provided
        ]
    )
    assert settings.postgres_password.get_secret_value() not in shown
    assert settings.rabbitmq_password.get_secret_value() not in shown


@pytest.mark.parametrize(
    ("resource", "config"),
    [
        ("simulation", {"seed": 43}),
        ("results", {"host": "elsewhere"}),
        ("broker", {"queue": "elsewhere"}),
        ("frames", {"results": {"host": "elsewhere"}}),
    ],
)
def test_launch_can_set_only_the_scope(
    settings: Settings, resource: str, config: dict[str, object]
) -> None:
    job = build_defs(settings).resolve_job_def(SIMULATION_JOB)
    scope = {"scope": {"config": {"force": True}}}
    assert dg.validate_run_config(job, {"resources": scope})
    with pytest.raises(
        dg.DagsterInvalidConfigError,
        match=f'unexpected config entry "{next(iter(config))}" at path root:resources:{resource}',
    ):
        dg.validate_run_config(job, {"resources": {**scope, resource: {"config": config}}})


def test_scope_fields_have_defaults_and_descriptions() -> None:
    shape: Any = RunScope.to_config_schema().as_field().config_type
    assert set(shape.fields) == set(RunScope.model_fields)
    for name, field in shape.fields.items():
        assert field.description, name
        assert field.default_provided, name
        assert field.default_value is not None, name


def test_profiles_file_sets_models_and_incidents(
    settings: Settings, postgres: Postgres, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(
        """
        [models.GPT-4o]
        tps_ref = 10
        batch_limit = 1024
        [[incidents]]
        model = "GPT-4o"
        start = 2026-11-20T12:00:00Z
        end = 2026-11-21T00:00:00Z
        capacity_factor = 0.3
        """
    )
    run(settings.model_copy(update={"model_profiles_file": file}), instance, key=KEY)
    tps = [max(row.data) for row in rows(postgres) if row.metric == "TPS"]
    assert max(tps) < 40
    assert max(tps[12:]) < max(tps[:12])
    before = drain(settings)
    file.write_text(file.read_text().replace("0.3", "0.4"))
    run(settings.model_copy(update={"model_profiles_file": file}), instance, key=KEY)
    changed = drain(settings)
    assert len(before) == 24
    assert {message.body[0]["timestamp"][11:13] for message in changed} == {
        f"{hour:02}" for hour in range(12, 24)
    }


def test_a_partitions_frame_can_be_loaded(
    settings: Settings, postgres: Postgres, instance: dg.DagsterInstance
) -> None:
    run(settings, instance, key=KEY)
    frame: Any = build_defs(settings).load_asset_value(
        dg.AssetKey("metric_frames"), partition_key=KEY, instance=instance
    )
    stored = rows(postgres)
    assert list(frame["metric"]) == [row.metric for row in stored]
    assert [list(values) for values in frame["values"]] == [row.data for row in stored]


def partition_metadata(
    result: dg.ExecuteInProcessResult, asset: str
) -> dict[str, dict[str, dg.MetadataValue[Any]]]:
    return {
        str(event.partition): dict(event.step_materialization_data.materialization.metadata)
        for event in result.all_events
        if event.is_step_materialization and event.asset_key == dg.AssetKey(asset)
    }


def test_partitions_have_metadata(
    settings: Settings, postgres: Postgres, instance: dg.DagsterInstance
) -> None:
    run(settings, instance, key=KEY, until="2026-11-20T06:00:00Z")
    tags = range_tags(settings.llm_models, DAY.date(), DAY.date() + timedelta(days=1))
    result = run(settings, instance, tags=tags)
    frames = partition_metadata(result, "metric_frames")
    feed = partition_metadata(result, "benchmark_feed")
    assert len(frames) == len(feed) == 4
    for key, said in frames.items():
        day, llm_name = key.split("|")
        there = 6 if key == KEY else 0
        assert said["windows simulated"].value == 24 - there
        assert said["windows already stored"].value == there
        assert said["points per metric"].value == (24 - there) * settings.num_data_points
        failed, completed = said["requests failed"].value, said["requests completed"].value
        assert 0 < failed < completed / 10
        kinds = [
            said[f"requests {kind}"].value for kind in ("rate limited", "overloaded", "timed out")
        ]
        assert sum(kinds) == failed
        counts = [
            row[2:]
            for row in stored_counts(postgres)
            if (row[0], row[1].date().isoformat()) == (llm_name, day)
        ]
        assert np.sum(counts[there:], axis=0).tolist() == [completed, *kinds]
        assert said["share of requests failed"].value == pytest.approx(
            failed / (failed + completed), abs=1e-5
        )
        assert 0 < said["mean utilisation"].value < 1
        assert isinstance(said["events"], dg.MarkdownMetadataValue)
        medians = [
            np.median(row.data)
            for row in rows(postgres)
            if (row.llm_name, row.metric) == (llm_name, "TTFT")
            and row.window_start.date().isoformat() == day
        ]
        assert said["TTFT p50 [s]"].value == pytest.approx(np.median(medians[there:]), rel=1e-4)
        assert feed[key]["messages sent"].value == 24 - there
        assert "messages sent again" not in feed[key]
    tables = [said["events"].value for said in frames.values()]
    assert any(text.startswith("| kind | start | end | size |") for text in tables)


def test_complete_partition_has_no_value_metadata(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    run(settings, instance, key=KEY)
    result = run(settings, instance, key=KEY, resend=True)
    frames = partition_metadata(result, "metric_frames")[KEY]
    assert frames["windows already stored"].value == 24
    assert "TTFT p50 [s]" not in frames
    feed = partition_metadata(result, "benchmark_feed")[KEY]
    assert (feed["messages sent"].value, feed["messages sent again"].value) == (24, 24)


def test_resent_messages_are_counted_per_partition(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    run(settings, instance, key=KEY, until="2026-11-20T06:00:00Z")
    tags = range_tags(settings.llm_models, DAY.date(), DAY.date() + timedelta(days=1))
    result = run(settings, instance, tags=tags, resend=True)
    feed = partition_metadata(result, "benchmark_feed")
    assert {said["messages sent"].value for said in feed.values()} == {24}
    assert {key: said["messages sent again"].value for key, said in feed.items()} == {
        f"2026-11-{day}|{name}": 6 if f"2026-11-{day}|{name}" == KEY else 0
        for day in (20, 21)
        for name in settings.llm_models
    }


def test_replaced_message_does_not_count_as_resent(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    run(settings, instance, key=KEY)
    reseeded = settings.model_copy(update={"random_seed": 43})
    feed = partition_metadata(run(reseeded, instance, key=KEY, resend=True), "benchmark_feed")[KEY]
    assert (feed["messages sent"].value, feed["messages sent again"].value) == (24, 0)


def test_database_without_counts_is_kept_and_continued(
    settings: Settings, postgres: Postgres, instance: dg.DagsterInstance
) -> None:
    """At noon, a database at the previous migration is upgraded. One window is not sent yet."""
    noon = DAY + 12 * HOUR
    cadence = Cadence(settings.simulation_interval, settings.simulation_start)
    command.downgrade(alembic_config(postgres), "0002")
    fill_without_counts(
        postgres,
        MetricFrames(
            select([KEY], cadence, began=noon),
            read_profiles(None, ["GPT-4o"]),
            cadence=cadence,
            points=settings.num_data_points,
            seed=settings.random_seed,
            postgres=postgres,
        ),
    )
    pending = noon - HOUR
    execute(
        postgres, 'UPDATE deliveries SET published_at = now() WHERE "timestamp" < :t', t=pending
    )
    before, entries = rows(postgres), ledger(postgres)
    assert len(before) == 12 * 4

    upgrade(postgres)

    assert (rows(postgres), ledger(postgres), stored_counts(postgres)) == (before, entries, [])
    assert missing_windows(postgres.engine, cadence, ["GPT-4o"], since=DAY, now=pending) is None

    run(settings, instance, key=KEY)

    after, now = rows(postgres), ledger(postgres)
    assert after[: 12 * 4] == before
    assert len(after) == len({(row.metric, row.window_start) for row in after}) == 24 * 4
    assert now[:11] == entries[:11]
    assert [entry.message_id for entry in now[:12]] == [entry.message_id for entry in entries]
    assert [message.message_id for message in drain(settings)] == [
        str(entry.message_id) for entry in now[11:]
    ]
    assert [row[1] for row in stored_counts(postgres)] == [noon + hour * HOUR for hour in range(12)]
    assert (
        missing_windows(postgres.engine, cadence, ["GPT-4o"], since=DAY, now=DAY + 24 * HOUR)
        is None
    )

    run(settings, instance, key=KEY)
    assert (rows(postgres), ledger(postgres)) == (after, now)
    assert drain(settings) == []

    run(settings, instance, key=KEY, force=True)
    assert (rows(postgres), ledger(postgres)) == (after, now)
    assert len(stored_counts(postgres)) == 24


def fill_without_counts(postgres: Postgres, batches: Iterable[WindowBatch]) -> None:
    """Store rows and ledger entries with plain INSERTs; the entries are pending."""
    with postgres.engine.begin() as connection:
        for batch in batches:
            connection.execute(sa.insert(simulation_results), batch.results_table().to_pylist())
            connection.execute(
                sa.insert(deliveries),
                [
                    {"llm_name": name, "timestamp": start, "message_id": message_id}
                    for name, start, message_id in zip(
                        batch.llm_names, batch.window_starts, batch.message_ids, strict=True
                    )
                ],
            )
