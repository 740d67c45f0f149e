"""One connection: the queue it finds or declares, and how it ends."""

import signal
import threading

import pytest

from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.broker.errors import MessageReturnedError, QueueUnavailableError
from sim_pipeline.broker.publisher import Publisher
from sim_pipeline_tests.broker.harness import (
    Queue,
    in_background,
    messages,
    publish,
)
from sim_pipeline_tests.support.tcp_proxy import Direction, TcpProxy
from sim_pipeline_tests.support.waiting import wait_until


def test_a_missing_queue_is_declared_durable_and_quorum(config: BrokerConfig, queue: Queue) -> None:
    publish(config, messages(1))

    # The broker refuses a declaration that differs from what is there.
    queue.declare(durable=True, x_queue_type="quorum")
    assert queue.count() == 1


def test_an_existing_queue_is_used_as_it_is(config: BrokerConfig, queue: Queue) -> None:
    queue.declare(durable=False, x_max_length=100)

    publish(config, messages(2))

    queue.declare(durable=False, x_max_length=100)
    assert queue.count() == 2


def test_a_queue_that_appears_before_it_is_declared_is_used(
    config: BrokerConfig, proxy: TcpProxy, queue: Queue
) -> None:
    def declare_another_way(_direction: Direction, data: bytes) -> None:
        if b"NOT_FOUND" in data:
            queue.declare(durable=False)

    proxy.tap = declare_another_way

    publish(config, messages(2))

    assert queue.count() == 2


def test_a_queue_of_another_connection_is_refused(config: BrokerConfig, queue: Queue) -> None:
    queue.declare(exclusive=True)

    with pytest.raises(QueueUnavailableError, match=f"'{queue.name}'.*RESOURCE_LOCKED") as info:
        publish(config, messages(1))

    assert not info.value.retryable


def test_a_message_without_a_queue_is_returned_and_the_next_call_declares_it(
    config: BrokerConfig, queue: Queue
) -> None:
    with Publisher(config) as publisher:
        publisher.publish(messages(1))
        queue.delete()

        with pytest.raises(MessageReturnedError, match="NO_ROUTE") as info:
            publisher.publish(messages(3))
        assert info.value.confirmed == frozenset()
        assert info.value.retryable

        publisher.publish(messages(2))
    assert queue.count() == 2


def test_one_connection_serves_all_calls_and_is_closed(
    config: BrokerConfig, proxy: TcpProxy
) -> None:
    with Publisher(config) as publisher:
        assert proxy.accepted == 0
        for _ in range(3):
            publisher.publish(messages(2))
        assert (proxy.accepted, proxy.open_connections) == (1, 1)
    wait_until(lambda: proxy.open_connections == 0)


def test_it_is_closed_after_an_error_of_the_caller(config: BrokerConfig, proxy: TcpProxy) -> None:
    def fail_after_publishing() -> None:
        with Publisher(config) as publisher:
            publisher.publish(messages(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_publishing()
    wait_until(lambda: proxy.open_connections == 0)


def test_an_interrupt_in_the_middle_passes_through_and_cuts_the_connection(
    config: BrokerConfig, proxy: TcpProxy, queue: Queue
) -> None:
    class Interrupt(BaseException):
        pass

    def interrupt(_signal: int, _frame: object) -> None:
        raise Interrupt

    def when_all_are_sent() -> None:
        wait_until(lambda: queue.count() == 3)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    previous = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with Publisher(config) as publisher:
            publisher.publish(messages(1))
            proxy.half_open(Direction.TO_CLIENT)
            with in_background(when_all_are_sent), pytest.raises(Interrupt):
                publisher.publish(messages(2))
            wait_until(lambda: proxy.open_connections == 0)
            publisher.publish(messages(1))
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert queue.count() == 4
