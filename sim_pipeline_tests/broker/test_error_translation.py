"""Errors of connecting and publishing: their kind, message and retries."""

import logging
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from pika.exceptions import ChannelClosedByBroker

from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.broker.error_translation import (
    NOT_FOUND,
    PRECONDITION_FAILED,
    size_limit,
    translate_queue_error,
)
from sim_pipeline.broker.errors import BrokerErrorKind
from sim_pipeline.local_servers.rabbitmq import LocalRabbitMQ
from sim_pipeline_tests.broker.harness import Queue, messages, publish, raises
from sim_pipeline_tests.support.ports import free_port
from sim_pipeline_tests.support.tcp_proxy import Direction, TcpProxy

WRONG_PASSWORD = "not-the-password"  # noqa: S105 - not a real password


@pytest.fixture(scope="module")
def restricted(rabbitmq_server: LocalRabbitMQ) -> Iterator[str]:
    """Name and password of a user without permissions on the virtual host."""
    rabbitmq_server.ctl("add_user", "restricted", "restricted")
    yield "restricted"
    rabbitmq_server.ctl("delete_user", "restricted")


def fails_without_retry(
    config: BrokerConfig, proxy: TcpProxy, kind: BrokerErrorKind, words: str
) -> None:
    with raises(kind, match=words) as info:
        publish(config, messages(1))
    assert not info.value.retryable
    assert info.value.confirmed == frozenset()
    assert proxy.accepted == 1


def test_nothing_listens(
    config: BrokerConfig, proxy: TcpProxy, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.refuse()

    with raises(
        BrokerErrorKind.UNREACHABLE, match=f"127.0.0.1:{proxy.port}.*nothing listens.*3 attempts"
    ) as info:
        publish(config, messages(1))

    assert info.value.retryable
    # One line per retry, and none of pika's.
    assert [record.name for record in caplog.records] == ["sim_pipeline.broker.publisher"] * 2


def test_broker_that_comes_back_is_reached(
    config: BrokerConfig, proxy: TcpProxy, queue: Queue
) -> None:
    proxy.refuse()
    healer = threading.Timer(0.2, proxy.heal)
    healer.start()

    publish(replace(config, attempts=100, max_backoff=0.1), messages(1))

    healer.join()
    assert queue.count() == 1


def test_peer_never_answers(config: BrokerConfig) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as silent:
        port = silent.getsockname()[1]
        with raises(BrokerErrorKind.UNREACHABLE, match="timed out; check"):
            publish(replace(config, port=port, stack_timeout=0.2, attempts=1), messages(1))


def test_connecting_takes_too_long(config: BrokerConfig) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as silent:
        port = silent.getsockname()[1]
        with raises(BrokerErrorKind.UNREACHABLE, match=r"no connection .* within 0\.2 s"):
            publish(replace(config, port=port, connect_timeout=0.2, attempts=1), messages(1))


def test_peer_hangs_up(config: BrokerConfig, proxy: TcpProxy) -> None:
    proxy.reset_after(1, Direction.TO_SERVER)

    with raises(BrokerErrorKind.UNREACHABLE, match="hung up on AMQP"):
        publish(replace(config, attempts=1), messages(1))


def test_connection_lost_while_connecting_is_retried(
    config: BrokerConfig, proxy: TcpProxy, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    queue.declare()
    sizes: list[int] = []
    proxy.tap = lambda direction, data: (
        sizes.append(len(data)) if direction is Direction.TO_CLIENT else None
    )
    publish(config, messages(1))
    proxy.tap = None
    steps = sizes.copy()

    # Cut in the middle and after each reply: greeting, login, tuning, opening the connection and
    # the channel, queue, confirms. At some of them pika guesses that the password is wrong or the
    # virtual host is forbidden.
    for number in range(6):
        for count in (sum(steps[:number]) + steps[number] // 2, sum(steps[: number + 1])):
            accepted = proxy.accepted
            proxy.reset_after(count, Direction.TO_CLIENT)
            publish(replace(config, connect_timeout=2.0), messages(1))
            assert proxy.accepted == accepted + 2, f"cut after {count} bytes of {steps}"

    assert queue.count() == 13
    # No attempt ended with a timeout.
    assert "within" not in caplog.text


def test_host_name_without_address(config: BrokerConfig) -> None:
    with raises(BrokerErrorKind.UNREACHABLE, match=r"nowhere\.invalid.*no address"):
        publish(replace(config, host="nowhere.invalid", attempts=1), messages(1))


def test_wrong_password(config: BrokerConfig, proxy: TcpProxy) -> None:
    fails_without_retry(
        replace(config, password=WRONG_PASSWORD),
        proxy,
        BrokerErrorKind.LOGIN_REFUSED,
        f"refused to log in user '{config.user}'; check",
    )


def test_no_log_holds_a_password(config: BrokerConfig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    # An explicit level is kept.
    caplog.set_level(logging.DEBUG, logger="pika")

    publish(config, messages(1))
    with raises(BrokerErrorKind.LOGIN_REFUSED) as info:
        publish(replace(config, password=WRONG_PASSWORD), messages(1))

    output = caplog.text + "".join(traceback.format_exception(info.value))
    assert "Connection.Start" in output
    assert WRONG_PASSWORD not in output
    assert config.password not in output


def test_unknown_virtual_host(config: BrokerConfig, proxy: TcpProxy) -> None:
    fails_without_retry(
        replace(config, vhost="nowhere"),
        proxy,
        BrokerErrorKind.ACCESS_REFUSED,
        "vhost nowhere not found",
    )


def test_user_without_permissions(config: BrokerConfig, proxy: TcpProxy, restricted: str) -> None:
    fails_without_retry(
        replace(config, user=restricted, password=restricted),
        proxy,
        BrokerErrorKind.ACCESS_REFUSED,
        f"refused user '{restricted}': .*access to vhost '/'",
    )


def test_user_who_may_not_declare_the_queue(
    config: BrokerConfig,
    proxy: TcpProxy,
    rabbitmq_server: LocalRabbitMQ,
    restricted: str,
    queue: Queue,
) -> None:
    rabbitmq_server.ctl("set_permissions", restricted, "^$", ".*", ".*")
    theirs = replace(config, user=restricted, password=restricted)

    fails_without_retry(
        theirs,
        proxy,
        BrokerErrorKind.QUEUE_UNAVAILABLE,
        f"'{queue.name}' does not exist.* user '{restricted}' may not declare it",
    )

    queue.declare()
    publish(theirs, messages(1))
    assert queue.count() == 1


def test_user_who_may_not_publish(
    config: BrokerConfig, proxy: TcpProxy, rabbitmq_server: LocalRabbitMQ, restricted: str
) -> None:
    rabbitmq_server.ctl("set_permissions", restricted, ".*", "^$", ".*")

    fails_without_retry(
        replace(config, user=restricted, password=restricted),
        proxy,
        BrokerErrorKind.ACCESS_REFUSED,
        f"user '{restricted}' may not publish",
    )


@pytest.fixture
def vhost_limits(rabbitmq_server: LocalRabbitMQ) -> Iterator[Callable[[str], object]]:
    """A function that sets limits of the virtual host, as JSON, until the test ends."""
    arguments = "-p", rabbitmq_server.vhost
    yield lambda limits: rabbitmq_server.ctl("set_vhost_limits", *arguments, limits)
    rabbitmq_server.ctl("clear_vhost_limits", *arguments)


@pytest.mark.usefixtures("queue")
def test_connection_limit_is_retryable(
    config: BrokerConfig, vhost_limits: Callable[[str], object]
) -> None:
    vhost_limits('{"max-connections": 0}')

    with raises(BrokerErrorKind.UNREACHABLE, match=r"connection limit \(0\) is reached"):
        publish(config, messages(1))


def test_queue_limit(
    config: BrokerConfig, proxy: TcpProxy, vhost_limits: Callable[[str], object]
) -> None:
    vhost_limits('{"max-queues": 0}')

    fails_without_retry(
        config, proxy, BrokerErrorKind.QUEUE_UNAVAILABLE, "queue limit in vhost '/'.*is reached"
    )


# RabbitMQ's texts for a queue whose node is down. A real one would need several nodes.
@pytest.mark.parametrize(
    "words",
    [
        "NOT_FOUND - home node 'r@b' of durable queue 'q' in vhost '/' is down or inaccessible",
        "NOT_FOUND - queue 'q' in vhost '/' process is stopped by supervisor",
        "NOT_FOUND - queue 'q' in vhost '/' has crashed and failed to restart",
    ],
)
def test_queue_that_is_down_is_retryable(config: BrokerConfig, words: str) -> None:
    error = translate_queue_error(config, ChannelClosedByBroker(NOT_FOUND, words))

    assert error.kind is BrokerErrorKind.QUEUE_DOWN
    assert error.retryable
    assert words in str(error)


@pytest.mark.parametrize("words", ["configured max size", "max size"])
def test_size_limit_is_read_from_both_texts(words: str) -> None:
    text = f"PRECONDITION_FAILED - message size 134217729 is larger than {words} 134217728"

    assert size_limit(ChannelClosedByBroker(PRECONDITION_FAILED, text)) == 134217728
    assert size_limit(ChannelClosedByBroker(PRECONDITION_FAILED, "unknown delivery tag")) is None
