"""Retries of a step: transient errors are retried, other errors fail the run at once."""

import logging
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import dagster as dg
import pika
import pytest
from dagster._core.events import DagsterEventType
from dagster._serdes import serialize_value
from pydantic import SecretStr

from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.broker.errors import BrokerError, BrokerErrorKind
from sim_pipeline.config import Settings
from sim_pipeline.definitions import build_defs
from sim_pipeline.local_servers.rabbitmq import LocalRabbitMQ
from sim_pipeline.orchestration import resources
from sim_pipeline.orchestration import retries as faults
from sim_pipeline.orchestration.jobs.simulation import SIMULATION_JOB
from sim_pipeline.orchestration.retries import STEP_RETRIES, retry_transient_errors
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.errors import ErrorKind, StoreError
from sim_pipeline_tests.support.assertions import exception_text
from sim_pipeline_tests.support.queue_reader import Received, drain
from sim_pipeline_tests.support.stored_windows import (
    execute,
    ledger_entries,
    pending_entries,
    stored_rows,
)
from sim_pipeline_tests.support.tcp_proxy import Direction, TcpProxy

KEY = "2026-11-20|GPT-4o"
WINDOWS = 24
FRAMES, CHECKS, FEED = "metric_frames", "frame_checks", "benchmark_feed"


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the number of attempts, of the step and of the publisher, but not the delays."""
    retries = dg.RetryPolicy(max_retries=STEP_RETRIES.max_retries, delay=0.001)
    monkeypatch.setattr(faults, "STEP_RETRIES", retries)
    monkeypatch.setattr(resources, "BrokerConfig", partial(BrokerConfig, backoff=0.01))


@pytest.fixture
def instance(ephemeral: dg.DagsterInstance) -> dg.DagsterInstance:
    return ephemeral


@pytest.fixture
def postgres_proxy(postgres: Postgres) -> Iterator[TcpProxy]:
    with TcpProxy((postgres.host, postgres.port)) as proxy:
        yield proxy


@pytest.fixture
def rabbitmq_proxy(rabbitmq_server: LocalRabbitMQ) -> Iterator[TcpProxy]:
    with TcpProxy((rabbitmq_server.host, rabbitmq_server.port)) as proxy:
        yield proxy


class Run:
    """A run of the job over one partition.

    Args:
        settings: the settings of the run.
        instance: the Dagster instance.
        at: called when a step's event of this type is stored, before the run continues.
        scope: fields of the run's `RunScope`.
    """

    def __init__(
        self,
        settings: Settings,
        instance: dg.DagsterInstance,
        at: dict[tuple[str, str], Callable[[], None]] | None = None,
        **scope: Any,
    ) -> None:
        run_id = str(uuid.uuid4())
        at = at or {}

        def listen(entry: dg.EventLogEntry) -> None:
            if entry.dagster_event is not None:
                kind = entry.dagster_event.event_type_value
                at.get((str(entry.step_key), kind), lambda: None)()

        instance.add_event_listener(run_id, listen)
        self.success = (
            build_defs(settings)
            .resolve_job_def(SIMULATION_JOB)
            .execute_in_process(
                instance=instance,
                run_id=run_id,
                partition_key=KEY,
                run_config={"resources": {"scope": {"config": scope}}},
                raise_on_error=False,
            )
            .success
        )
        self.entries = instance.all_logs(run_id)
        told = "".join(map(serialize_value, self.entries))
        assert settings.postgres_password.get_secret_value() not in told
        assert settings.rabbitmq_password.get_secret_value() not in told

    def of_type(self, kind: DagsterEventType) -> list[str]:
        """Return the step of each event of this type."""
        return [
            str(entry.step_key)
            for entry in self.entries
            if entry.dagster_event is not None and entry.dagster_event.event_type == kind
        ]

    @property
    def retried(self) -> list[str]:
        """The step of each retry."""
        retried = self.of_type(DagsterEventType.STEP_UP_FOR_RETRY)
        assert self.of_type(DagsterEventType.STEP_RESTARTED) == retried
        return retried

    @property
    def feed_metadata(self) -> dict[str, Any]:
        """The metadata of the partition of `benchmark_feed`."""
        (made,) = (
            entry.dagster_event.step_materialization_data.materialization
            for entry in self.entries
            if entry.dagster_event is not None
            and entry.dagster_event.is_step_materialization
            and entry.step_key == FEED
        )
        return {name: value.value for name, value in made.metadata.items()}

    @property
    def failure(self) -> tuple[str, str]:
        """The step that failed the run, and the reason that Dagster shows."""
        assert not self.success
        (failed,) = (
            entry.dagster_event
            for entry in self.entries
            if entry.dagster_event is not None and entry.dagster_event.is_step_failure
        )
        data = failed.step_failure_data
        assert data.error is not None
        assert data.user_failure_data is not None
        description = str(data.user_failure_data.description)
        assert data.error.message == f"dagster._core.definitions.events.Failure: {description}\n"
        return str(failed.step_key), description


def declare_bounded(settings: Settings, server: LocalRabbitMQ, length: int) -> None:
    """Declare a queue that rejects messages once it holds `length` of them."""
    with (
        pika.BlockingConnection(server.connection_parameters()) as connection,
        connection.channel() as channel,
    ):
        channel.queue_declare(
            settings.rabbitmq_queue,
            durable=True,
            arguments={"x-max-length": length, "x-overflow": "reject-publish"},
        )


def through(proxy: TcpProxy, settings: Settings, server: str) -> Settings:
    """Return the settings of a run that reaches a server through the proxy."""
    return settings.model_copy(update={f"{server}_host": proxy.host, f"{server}_port": proxy.port})


# The broker


def test_broker_outage_fails_the_run(
    settings: Settings,
    postgres: Postgres,
    instance: dg.DagsterInstance,
    rabbitmq_proxy: TcpProxy,
) -> None:
    rabbitmq_proxy.refuse()
    run = Run(through(rabbitmq_proxy, settings, "rabbitmq"), instance)
    assert run.retried == []
    step, reason = run.failure
    assert step == FEED
    assert "gave up after 8 attempts in a row" in reason
    assert reason.startswith(f"cannot reach amqp://{rabbitmq_proxy.host}:{rabbitmq_proxy.port},")
    assert "start RabbitMQ, or correct host and port" in reason
    assert len(stored_rows(postgres)) == 4 * WINDOWS
    assert len(pending_entries(postgres)) == WINDOWS

    rabbitmq_proxy.heal()
    assert Run(settings, instance).success
    assert len(drain(settings)) == WINDOWS


def test_broker_that_recovers_gets_the_messages(
    settings: Settings,
    postgres: Postgres,
    instance: dg.DagsterInstance,
    rabbitmq_proxy: TcpProxy,
) -> None:
    class Healer(logging.Handler):
        """Heals the proxy when the publisher logs a retry."""

        def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002 - the publisher logs nothing else
            rabbitmq_proxy.heal()

    healer, publisher = Healer(), logging.getLogger("sim_pipeline.broker.publisher")
    publisher.addHandler(healer)
    rabbitmq_proxy.refuse()
    try:
        run = Run(through(rabbitmq_proxy, settings, "rabbitmq"), instance)
    finally:
        publisher.removeHandler(healer)
    assert run.success
    assert run.retried == []
    assert len(drain(settings)) == WINDOWS
    assert pending_entries(postgres) == []


def test_wrong_broker_password_fails_at_once(
    settings: Settings,
    postgres: Postgres,
    instance: dg.DagsterInstance,
    caplog: pytest.LogCaptureFixture,
) -> None:
    wrong = {"rabbitmq_password": SecretStr("another password")}
    run = Run(settings.model_copy(update=wrong), instance)
    assert run.retried == []
    step, reason = run.failure
    assert step == FEED
    assert reason.endswith(
        f"refused to log in user {settings.rabbitmq_user!r}; check the user and its password"
    )
    assert "another password" not in caplog.text
    assert "another password" not in "".join(map(serialize_value, run.entries))
    assert len(pending_entries(postgres)) == WINDOWS


def test_confirmed_messages_are_marked_delivered(
    settings: Settings,
    postgres: Postgres,
    instance: dg.DagsterInstance,
    rabbitmq_server: LocalRabbitMQ,
) -> None:
    declare_bounded(settings, rabbitmq_server, 5)
    run = Run(settings, instance)
    assert run.retried == [FEED, FEED]
    assert "it is full" in run.failure[1]
    sent = {message.message_id for message in drain(settings)}
    assert 0 < len(sent) < WINDOWS
    delivered = {entry[2] for entry in ledger_entries(postgres) if entry[4] is not None}
    assert delivered == sent


@pytest.mark.parametrize("resend", [False, True])
def test_retried_feed_counts_all_attempts(
    settings: Settings,
    postgres: Postgres,
    instance: dg.DagsterInstance,
    rabbitmq_server: LocalRabbitMQ,
    *,
    resend: bool,
) -> None:
    """The queue rejects messages when it is full; the test empties it between attempts."""
    received: list[Received] = []
    emptied = {(FEED, "STEP_UP_FOR_RETRY"): lambda: received.extend(drain(settings))}
    declare_bounded(settings, rabbitmq_server, WINDOWS - 8)
    if resend:
        assert Run(settings, instance, emptied).success
        drain(settings)
        received.clear()
    run = Run(settings, instance, emptied, resend=resend)
    received.extend(drain(settings))
    assert run.retried == [FEED]
    assert pending_entries(postgres) == []
    ids = {message.message_id for message in received}
    assert len(received) == len(ids) == WINDOWS
    assert run.feed_metadata["messages sent"] == WINDOWS
    assert run.feed_metadata.get("messages sent again") == (WINDOWS if resend else None)


# The database


def test_database_outage_fails_the_run(
    settings: Settings, instance: dg.DagsterInstance, postgres_proxy: TcpProxy
) -> None:
    postgres_proxy.refuse()
    run = Run(through(postgres_proxy, settings, "postgres"), instance)
    assert run.retried == [FRAMES, FRAMES]
    step, reason = run.failure
    assert step == FRAMES
    assert reason.startswith(
        f"no connection to postgresql://{postgres_proxy.host}:{postgres_proxy.port},"
    )


@pytest.mark.parametrize("step", [FRAMES, CHECKS, FEED])
def test_database_that_recovers_lets_the_run_succeed(
    settings: Settings,
    postgres: Postgres,
    instance: dg.DagsterInstance,
    postgres_proxy: TcpProxy,
    step: str,
) -> None:
    def vanish() -> None:
        postgres_proxy.refuse()
        postgres_proxy.reset()

    run = Run(
        through(postgres_proxy, settings, "postgres"),
        instance,
        {(step, "STEP_START"): vanish, (step, "STEP_UP_FOR_RETRY"): postgres_proxy.heal},
    )
    assert run.retried == [step]
    assert run.success
    assert len(stored_rows(postgres)) == 4 * WINDOWS
    assert len(drain(settings)) == WINDOWS


def test_connection_reset_during_a_write_is_retried(
    settings: Settings, postgres: Postgres, instance: dg.DagsterInstance, postgres_proxy: TcpProxy
) -> None:
    cut = iter([20_000])

    def cut_once() -> None:
        for count in cut:
            postgres_proxy.reset_after(count, Direction.TO_SERVER)

    many = settings.model_copy(update={"num_data_points": 100})
    run = Run(
        through(postgres_proxy, many, "postgres"), instance, {(FRAMES, "STEP_START"): cut_once}
    )
    assert run.retried == [FRAMES]
    assert run.success
    assert len(stored_rows(postgres)) == 4 * WINDOWS
    assert len(drain(settings)) == WINDOWS


def test_wrong_database_password_fails_at_once(
    settings: Settings,
    instance: dg.DagsterInstance,
    caplog: pytest.LogCaptureFixture,
) -> None:
    wrong = {"postgres_password": SecretStr("another password")}
    run = Run(settings.model_copy(update=wrong), instance)
    assert run.retried == []
    step, reason = run.failure
    assert step == FRAMES
    assert "password authentication failed" in reason
    assert "another password" not in caplog.text
    assert "another password" not in "".join(map(serialize_value, run.entries))


@pytest.mark.parametrize("step", [FRAMES, CHECKS, FEED])
def test_missing_table_fails_at_once(
    settings: Settings, postgres: Postgres, instance: dg.DagsterInstance, step: str
) -> None:
    def drop() -> None:
        execute(postgres, "DROP TABLE simulation_results CASCADE")

    run = Run(settings, instance, {(step, "STEP_START"): drop})
    assert run.retried == []
    failed, reason = run.failure
    assert failed == step
    assert '"simulation_results" does not exist; run `make migrate`' in reason


# Everything else


@pytest.mark.parametrize("error", [ValueError("ours"), KeyboardInterrupt(), dg.Failure("ours")])
def test_other_errors_are_not_translated(postgres: Postgres, error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, retry_transient_errors(postgres, 0):
        raise error
    assert raised.value is error


@pytest.mark.parametrize(
    ("error", "retry_number", "again"),
    [
        (BrokerError(BrokerErrorKind.NACKED, "full"), 0, True),
        (BrokerError(BrokerErrorKind.NACKED, "full"), 1, True),
        (BrokerError(BrokerErrorKind.NACKED, "full"), 2, False),
        (BrokerError(BrokerErrorKind.UNREACHABLE, "away for long"), 0, False),
        (StoreError(ErrorKind.UNREACHABLE, "away"), 1, True),
        (BrokerError(BrokerErrorKind.LOGIN_REFUSED, "who?"), 0, False),
        (StoreError(ErrorKind.SCHEMA_OUTDATED, "what?"), 0, False),
    ],
)
def test_only_transient_errors_are_retried(
    postgres: Postgres, error: Exception, retry_number: int, *, again: bool
) -> None:
    expected: Any = dg.RetryRequested if again else dg.Failure
    with pytest.raises(expected) as raised, retry_transient_errors(postgres, retry_number):
        raise error
    assert raised.value.__cause__ is error
    assert postgres.password not in exception_text(raised.value)
    if not again:
        assert raised.value.description == str(error)
        assert not raised.value.allow_retries


def test_retry_delays_are_short() -> None:
    for _ in range(100):
        pauses = [STEP_RETRIES.calculate_delay(attempt) for attempt in (1, 2)]
        assert 0 <= pauses[0] <= 4 <= pauses[1] <= 8
