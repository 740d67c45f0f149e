"""The publisher with a real RabbitMQ behind a faulty network: no loss, few duplicates."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.broker.errors import BrokerErrorKind
from sim_pipeline.broker.message import OutgoingMessage
from sim_pipeline.broker.publisher import Publisher
from sim_pipeline.local_servers.rabbitmq import LocalRabbitMQ
from sim_pipeline_tests.broker.harness import Queue, ids, in_background, messages, publish, raises
from sim_pipeline_tests.support.assertions import wait_until
from sim_pipeline_tests.support.tcp_proxy import Direction, TcpProxy

# Free bytes that the broker requires on its disk; the second limit raises its disk alarm.
NORMAL_LIMIT, ALARM_LIMIT = "50000000", str(10**15)


def test_all_messages_are_confirmed_and_queued(config: BrokerConfig, queue: Queue) -> None:
    sent = messages(2500)

    with Publisher(config) as publisher:
        report = publisher.publish(sent)

    assert report.confirmed == ids(sent)
    assert report.resent == 0
    assert [message.message_id for message in queue.drain()] == [
        message.message_id for message in sent
    ]


def test_messages_have_the_documented_properties(config: BrokerConfig, queue: Queue) -> None:
    [message] = messages(1)

    publish(config, [message])

    [received] = queue.drain()
    assert received.body == message.body
    properties = received.properties
    assert (
        properties.message_id,
        properties.content_type,
        properties.delivery_mode,
        properties.type,
        properties.app_id,
    ) == (str(message.message_id), "application/json", 2, "simulation_results", "sim_pipeline")


def test_body_of_several_frames_arrives_intact(config: BrokerConfig, queue: Queue) -> None:
    sent = messages(3, bytes(range(256)) * 4000)

    publish(config, sent)

    assert [message.body for message in queue.drain()] == [message.body for message in sent]


def test_empty_call_opens_no_connection(config: BrokerConfig, proxy: TcpProxy) -> None:
    with Publisher(config) as publisher:
        report = publisher.publish([])

    assert report.confirmed == frozenset()
    assert proxy.accepted == 0


def test_source_is_read_only_while_there_is_room(
    config: BrokerConfig, proxy: TcpProxy, queue: Queue
) -> None:
    read = 0

    def source() -> Iterator[OutgoingMessage]:
        nonlocal read
        for message in messages(100):
            read += 1
            yield message

    with Publisher(replace(config, in_flight=7)) as publisher:
        publisher.publish(messages(1))
        proxy.half_open(Direction.TO_CLIENT)
        with in_background(lambda: publisher.publish(source())) as result:
            wait_until(lambda: queue.count() == 8)
            assert read == 7
            proxy.heal()
            assert len(result().confirmed) == 100


def test_bytes_in_flight_are_limited(config: BrokerConfig, proxy: TcpProxy, queue: Queue) -> None:
    with Publisher(replace(config, in_flight_bytes=2500)) as publisher:
        publisher.publish(messages(1))
        proxy.half_open(Direction.TO_CLIENT)
        with in_background(lambda: publisher.publish(messages(10, b"x" * 1000))) as result:
            wait_until(lambda: queue.count() == 4)
            proxy.heal()
            assert len(result().confirmed) == 10


def test_full_queue_reports_the_confirmed_messages(config: BrokerConfig, queue: Queue) -> None:
    queue.declare(x_max_length=3, x_overflow="reject-publish")
    sent = messages(10)

    with Publisher(config) as publisher:
        with raises(BrokerErrorKind.NACKED, match=r"7 messages.*is full") as info:
            publisher.publish(sent)
        assert info.value.confirmed == ids(sent[:3])
        assert info.value.retryable

        assert ids(queue.drain()) == ids(sent[:3])
        publisher.publish(sent[3:5])
    assert ids(queue.drain()) == ids(sent[3:5])


def test_source_is_not_read_after_a_nack(config: BrokerConfig, queue: Queue) -> None:
    queue.declare(x_max_length=1, x_overflow="reject-publish")
    source = iter(messages(100))

    with (
        Publisher(replace(config, in_flight=2)) as publisher,
        raises(BrokerErrorKind.NACKED),
    ):
        publisher.publish(source)

    assert len(list(source)) > 90


def test_publisher_works_after_an_error_of_the_source(config: BrokerConfig, queue: Queue) -> None:
    def source() -> Iterator[OutgoingMessage]:
        yield from messages(1)
        raise ZeroDivisionError

    with Publisher(config) as publisher:
        with pytest.raises(ZeroDivisionError):
            publisher.publish(source())
        sent = messages(2)
        publisher.publish(sent)
    assert ids(queue.drain()) >= ids(sent)


def test_connection_lost_between_calls_is_replaced(
    config: BrokerConfig, proxy: TcpProxy, caplog: pytest.LogCaptureFixture
) -> None:
    with Publisher(config) as publisher:
        publisher.publish(messages(1))
        proxy.reset()
        wait_until(lambda: proxy.open_connections == 0)

        assert publisher.publish(messages(1)).resent == 0
    assert proxy.accepted == 2
    assert caplog.records == []


def test_reset_while_publishing_loses_no_message(
    config: BrokerConfig, proxy: TcpProxy, queue: Queue
) -> None:
    sent = messages(3000, b"x" * 300)
    proxy.reset_after(200_000, Direction.TO_SERVER)

    with Publisher(config) as publisher:
        report = publisher.publish(sent)

    assert report.confirmed == ids(sent)
    assert proxy.accepted == 2
    received = queue.drain()
    assert {message.message_id for message in received} == ids(sent)
    assert len(received) <= len(sent) + report.resent


def test_only_unconfirmed_messages_are_resent(
    config: BrokerConfig, proxy: TcpProxy, queue: Queue
) -> None:
    first, second = messages(1), messages(50)

    with Publisher(config) as publisher:
        publisher.publish(first)
        proxy.half_open(Direction.TO_CLIENT)
        with in_background(lambda: publisher.publish(second)) as result:
            wait_until(lambda: queue.count() == 51)
            proxy.reset()
            report = result()

    assert (report.confirmed, report.resent) == (ids(second), 50)
    received = [message.message_id for message in queue.drain()]
    assert len(received) == 101
    assert set(received) == ids(first + second)
    assert received.count(first[0].message_id) == 1


def test_heartbeat_detects_a_silent_peer(
    config: BrokerConfig, proxy: TcpProxy, queue: Queue
) -> None:
    sent = messages(3)

    with Publisher(replace(config, heartbeat=1)) as publisher:
        publisher.publish(messages(1))
        proxy.half_open()
        report = publisher.publish(sent)

    assert (report.confirmed, report.resent) == (ids(sent), 3)
    assert queue.count() == 4


def test_publisher_gives_up_after_all_attempts(
    config: BrokerConfig, proxy: TcpProxy, queue: Queue
) -> None:
    first, second = messages(20), messages(30)

    def source() -> Iterator[OutgoingMessage]:
        yield from first
        # Now all but five of them are confirmed.
        proxy.refuse()
        proxy.reset()
        yield from second

    with Publisher(replace(config, in_flight=5)) as publisher:
        with raises(BrokerErrorKind.CONNECTION_LOST, match="gave up after 3 attempts") as info:
            publisher.publish(source())
        confirmed = info.value.confirmed
        assert len(confirmed) >= 15
        assert confirmed <= ids(first)
        assert info.value.retryable

        proxy.heal()
        publisher.publish(sent for sent in first + second if sent.message_id not in confirmed)
    assert ids(queue.drain()) == ids(first + second)


def test_missing_confirms_time_out(config: BrokerConfig, proxy: TcpProxy) -> None:
    with Publisher(replace(config, confirm_timeout=0.3)) as publisher:
        publisher.publish(messages(1))
        proxy.half_open(Direction.TO_CLIENT)

        with raises(BrokerErrorKind.CONFIRM_TIMEOUT, match=r"nothing for 0\.3 s, 2 mess") as info:
            publisher.publish(messages(2))

        assert info.value.confirmed == frozenset()
        assert info.value.retryable
        wait_until(lambda: proxy.open_connections == 0)
        publisher.publish(messages(1))


def test_slow_source_is_no_confirm_timeout(config: BrokerConfig, queue: Queue) -> None:
    def source() -> Iterator[OutgoingMessage]:
        for message in messages(3):
            time.sleep(0.1)  # slower than the timeout
            yield message

    with Publisher(replace(config, confirm_timeout=0.05)) as publisher:
        publisher.publish(source())

    assert queue.count() == 3


def test_second_thread_is_rejected(config: BrokerConfig, proxy: TcpProxy, queue: Queue) -> None:
    with Publisher(config) as publisher:
        publisher.publish(messages(1))
        proxy.half_open(Direction.TO_CLIENT)
        with in_background(lambda: publisher.publish(messages(1))) as result:
            wait_until(lambda: queue.count() == 2)
            with pytest.raises(RuntimeError, match="one thread at a time"):
                publisher.publish(messages(1))
            proxy.heal()
            result()


def test_too_large_message_is_not_sent(config: BrokerConfig, proxy: TcpProxy, queue: Queue) -> None:
    small, [large] = messages(4), messages(1, b"x" * 1001)

    with raises(
        BrokerErrorKind.TOO_LARGE, match=f"{large.message_id}: 1001 bytes where 1000 are allowed"
    ) as info:
        publish(replace(config, max_message_bytes=1000), [*small[:2], large, *small[2:]])

    assert info.value.confirmed == ids(small)
    assert not info.value.retryable
    assert proxy.accepted == 1
    assert queue.count() == 4


@contextmanager
def size_limit(server: LocalRabbitMQ, limit: int) -> Iterator[None]:
    """Set the largest message that RabbitMQ accepts, in bytes, during the block."""

    def store(value: str) -> None:
        # RabbitMQ 3 reads the first for each message, RabbitMQ 4 the second.
        server.ctl(
            "eval",
            f"application:set_env(rabbit, max_message_size, {value}),"
            f" persistent_term:put(max_message_size, {value}).",
        )

    before = server.ctl("eval", "application:get_env(rabbit, max_message_size, none).").strip()
    store(str(limit))
    try:
        yield
    finally:
        store(before)


def test_size_limit_of_the_broker_is_learned(
    config: BrokerConfig, proxy: TcpProxy, queue: Queue, rabbitmq_server: LocalRabbitMQ
) -> None:
    small, [large] = messages(4), messages(1, b"x" * 1001)
    with (
        size_limit(rabbitmq_server, 1000),
        raises(BrokerErrorKind.TOO_LARGE, match="where 1000 are allowed") as info,
    ):
        publish(config, [*small[:2], large, *small[2:]])

    assert info.value.confirmed == ids(small)
    assert proxy.accepted == 2
    assert ids(queue.drain()) == ids(small)


def test_alarm_times_out(
    config: BrokerConfig, proxy: TcpProxy, queue: Queue, rabbitmq_server: LocalRabbitMQ
) -> None:
    sent = messages(2000, b"x" * 1000)
    with Publisher(replace(config, blocked_timeout=0.5)) as publisher:
        publisher.publish(messages(1))
        rabbitmq_server.ctl("set_disk_free_limit", ALARM_LIMIT)
        try:
            with raises(BrokerErrorKind.BLOCKED, match=r"low on disk.*within 0\.5 s") as info:
                publisher.publish(sent)
        finally:
            rabbitmq_server.ctl("set_disk_free_limit", NORMAL_LIMIT)
        assert info.value.retryable
        assert len(info.value.confirmed) < len(sent)
        assert proxy.open_connections == 0

        left = [message for message in sent if message.message_id not in info.value.confirmed]
        publisher.publish(left)
    assert ids(queue.drain()) >= ids(sent)


def test_alarm_that_ends_in_time_is_no_error(
    config: BrokerConfig, queue: Queue, rabbitmq_server: LocalRabbitMQ
) -> None:
    # The confirm timeout is shorter than the alarm, but does not run while blocked.
    sent = messages(2000, b"x" * 1000)
    with Publisher(replace(config, confirm_timeout=0.5)) as publisher:
        publisher.publish(messages(1))
        rabbitmq_server.ctl("set_disk_free_limit", ALARM_LIMIT)
        with in_background(lambda: publisher.publish(sent)) as result:
            rabbitmq_server.ctl("set_disk_free_limit", NORMAL_LIMIT)
            assert result().confirmed == ids(sent)
    assert queue.count() == 2001
