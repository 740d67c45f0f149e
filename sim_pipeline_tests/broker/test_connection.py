"""One connection: it finds or declares the queue, and closes."""

import signal
import threading
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pika
import pytest

from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.broker.connection import _queue_arguments
from sim_pipeline.broker.errors import BrokerErrorKind
from sim_pipeline.broker.publisher import Publisher
from sim_pipeline.local_servers.rabbitmq import LocalRabbitMQ
from sim_pipeline_tests.broker.harness import Queue, ids, in_background, messages, publish, raises
from sim_pipeline_tests.support.assertions import wait_until
from sim_pipeline_tests.support.tcp_proxy import Direction, TcpProxy


def test_missing_queue_is_declared_durable_and_quorum(
    config: BrokerConfig, queue: Queue, rabbitmq_server: LocalRabbitMQ
) -> None:
    publish(config, messages(1))

    # The broker refuses a declaration that differs from the existing queue.
    limits = rabbitmq_server.ctl("version").split(".")[0] >= "4"
    without_limit: dict[str, Any] = {"x_delivery_limit": -1} if limits else {}
    queue.declare(durable=True, x_queue_type="quorum", **without_limit)
    assert queue.count() == 1


@pytest.mark.parametrize(
    ("product", "version", "limits"),
    [
        ("RabbitMQ", "3.10.8", False),
        ("RabbitMQ", "3.13.7", False),
        ("RabbitMQ", "4.0.5", True),
        ("RabbitMQ", "10.0.0-rc.1", True),
        ("LavinMQ", "4.0.0", False),
        ("RabbitMQ", None, False),
    ],
)
def test_deliveries_are_unlimited_where_there_is_a_limit(
    product: str,
    version: str | None,
    limits: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    arguments = _queue_arguments({"product": product, "version": version})
    assert arguments.pop("x-queue-type") == "quorum"
    assert arguments == ({"x-delivery-limit": -1} if limits else {})


def test_message_survives_consumers_that_fail(
    config: BrokerConfig, rabbitmq_server: LocalRabbitMQ
) -> None:
    vhost = f"without-policy-{uuid4()}"
    rabbitmq_server.ctl("add_vhost", vhost)
    rabbitmq_server.ctl("set_permissions", "--vhost", vhost, rabbitmq_server.user, ".*", ".*", ".*")
    sent = messages(3)
    publish(replace(config, vhost=vhost), sent)
    parameters = rabbitmq_server.connection_parameters()
    parameters.virtual_host = vhost
    for _ in range(25):
        with pika.BlockingConnection(parameters) as connection:
            deliveries = connection.channel().consume(config.queue, inactivity_timeout=10)
            for _ in sent:
                assert next(deliveries)[0] is not None
    with pika.BlockingConnection(parameters) as connection:
        assert ids(Queue(connection, config.queue).drain()) == ids(sent)


def test_existing_queue_is_used_as_it_is(config: BrokerConfig, queue: Queue) -> None:
    queue.declare(durable=False, x_max_length=100)

    publish(config, messages(2))

    queue.declare(durable=False, x_max_length=100)
    assert queue.count() == 2


def test_queue_declared_by_another_client_is_used(
    config: BrokerConfig, proxy: TcpProxy, queue: Queue
) -> None:
    def declare_differently(_direction: Direction, data: bytes) -> None:
        if b"NOT_FOUND" in data:
            queue.declare(durable=False)

    proxy.tap = declare_differently

    publish(config, messages(2))

    assert queue.count() == 2


def test_exclusive_queue_of_another_connection_fails(config: BrokerConfig, queue: Queue) -> None:
    queue.declare(exclusive=True)

    with raises(
        BrokerErrorKind.QUEUE_UNAVAILABLE, match=f"'{queue.name}'.*RESOURCE_LOCKED"
    ) as info:
        publish(config, messages(1))

    assert not info.value.retryable


def test_deleted_queue_is_declared_by_the_next_call(config: BrokerConfig, queue: Queue) -> None:
    with Publisher(config) as publisher:
        publisher.publish(messages(1))
        queue.delete()

        with raises(BrokerErrorKind.RETURNED, match="NO_ROUTE") as info:
            publisher.publish(messages(3))
        assert info.value.confirmed == frozenset()
        assert info.value.retryable

        publisher.publish(messages(2))
    assert queue.count() == 2


def test_all_calls_share_one_connection(config: BrokerConfig, proxy: TcpProxy) -> None:
    with Publisher(config) as publisher:
        assert proxy.accepted == 0
        for _ in range(3):
            publisher.publish(messages(2))
        assert (proxy.accepted, proxy.open_connections) == (1, 1)
    wait_until(lambda: proxy.open_connections == 0)


def test_connection_is_closed_after_an_exception(config: BrokerConfig, proxy: TcpProxy) -> None:
    def fail_after_publishing() -> None:
        with Publisher(config) as publisher:
            publisher.publish(messages(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_publishing()
    wait_until(lambda: proxy.open_connections == 0)


def test_interrupt_drops_the_connection(
    config: BrokerConfig, proxy: TcpProxy, queue: Queue
) -> None:
    class Interrupt(BaseException):
        pass

    def interrupt(_signal: int, _frame: object) -> None:
        raise Interrupt

    def interrupt_when_all_are_sent() -> None:
        wait_until(lambda: queue.count() == 3)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    previous = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with Publisher(config) as publisher:
            publisher.publish(messages(1))
            proxy.half_open(Direction.TO_CLIENT)
            with in_background(interrupt_when_all_are_sent), pytest.raises(Interrupt):
                publisher.publish(messages(2))
            wait_until(lambda: proxy.open_connections == 0)
            publisher.publish(messages(1))
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert queue.count() == 4
