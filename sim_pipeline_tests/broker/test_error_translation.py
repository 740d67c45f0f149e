"""Why there is no way in: told in words that help, and tried again only where that can help."""

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
    queue_error,
    size_limit,
)
from sim_pipeline.broker.errors import (
    AccessRefusedError,
    BrokerError,
    BrokerUnreachableError,
    LoginRefusedError,
    QueueDownError,
    QueueUnavailableError,
)
from sim_pipeline.local_servers.ports import free_port
from sim_pipeline.local_servers.rabbitmq import LocalRabbitMQ
from sim_pipeline_tests.broker.harness import Queue, messages, publish
from sim_pipeline_tests.support.tcp_proxy import Direction, TcpProxy

WRONG_PASSWORD = "not-the-password"  # noqa: S105 - nor any other


@pytest.fixture(scope="module")
def restricted(rabbitmq_server: LocalRabbitMQ) -> Iterator[str]:
    """A user, and its password, with no permissions on the virtual host yet."""
    rabbitmq_server.ctl("add_user", "restricted", "restricted")
    yield "restricted"
    rabbitmq_server.ctl("delete_user", "restricted")


def refused_at_once(
    config: BrokerConfig, proxy: TcpProxy, error: type[BrokerError], words: str
) -> None:
    with pytest.raises(error, match=words) as info:
        publish(config, messages(1))
    assert not info.value.retryable
    assert info.value.confirmed == frozenset()
    assert proxy.accepted == 1


def test_where_nothing_listens(
    config: BrokerConfig, proxy: TcpProxy, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.refuse()

    with pytest.raises(
        BrokerUnreachableError, match=f"127.0.0.1:{proxy.port}.*nothing listens.*3 attempts"
    ) as info:
        publish(config, messages(1))

    assert info.value.retryable
    # One line for each attempt that is followed by another, and none of pika's.
    assert [record.name for record in caplog.records] == ["sim_pipeline.broker.publisher"] * 2


def test_a_broker_that_comes_back_in_time_is_reached(
    config: BrokerConfig, proxy: TcpProxy, queue: Queue
) -> None:
    proxy.refuse()
    healer = threading.Timer(0.2, proxy.heal)
    healer.start()

    publish(replace(config, attempts=100, max_backoff=0.1), messages(1))

    healer.join()
    assert queue.count() == 1


def test_a_peer_that_never_answers(config: BrokerConfig) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(BrokerUnreachableError, match="no answer in time"):
            publish(replace(config, port=port, stack_timeout=0.2, attempts=1), messages(1))


def test_a_connection_that_takes_too_long_altogether(config: BrokerConfig) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(BrokerUnreachableError, match=r"no connection .* within 0\.2 s"):
            publish(replace(config, port=port, connect_timeout=0.2, attempts=1), messages(1))


def test_a_peer_that_hangs_up(config: BrokerConfig, proxy: TcpProxy) -> None:
    proxy.reset_after(1, Direction.TO_SERVER)

    with pytest.raises(BrokerUnreachableError, match="hung up on AMQP"):
        publish(replace(config, attempts=1), messages(1))


def test_a_connection_lost_anywhere_on_the_way_in_is_tried_again(
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

    # After each step of the conversation, and in the midst of it: greeting, log-in, tuning, opening
    # the connection, the channel, the queue, confirms. For some of them pika guesses at a wrong
    # password or a forbidden virtual host.
    for number in range(6):
        for count in (sum(steps[:number]) + steps[number] // 2, sum(steps[: number + 1])):
            accepted = proxy.accepted
            proxy.reset_after(count, Direction.TO_CLIENT)
            publish(replace(config, connect_timeout=2.0), messages(1))
            assert proxy.accepted == accepted + 2, f"cut after {count} bytes of {steps}"

    assert queue.count() == 13
    # Found out, not waited for.
    assert "within" not in caplog.text


def test_a_name_without_an_address(config: BrokerConfig) -> None:
    with pytest.raises(BrokerUnreachableError, match=r"nowhere\.invalid.*no address"):
        publish(replace(config, host="nowhere.invalid", attempts=1), messages(1))


def test_a_wrong_password(config: BrokerConfig, proxy: TcpProxy) -> None:
    refused_at_once(
        replace(config, password=WRONG_PASSWORD),
        proxy,
        LoginRefusedError,
        f"refused to log in user '{config.user}'; check",
    )


def test_no_log_holds_a_password(config: BrokerConfig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    # Set by hand, it is not silenced.
    caplog.set_level(logging.DEBUG, logger="pika")

    publish(config, messages(1))
    with pytest.raises(LoginRefusedError) as info:
        publish(replace(config, password=WRONG_PASSWORD), messages(1))

    said = caplog.text + "".join(traceback.format_exception(info.value))
    assert "Connection.Start" in said
    assert WRONG_PASSWORD not in said
    assert config.password not in said


def test_an_unknown_virtual_host(config: BrokerConfig, proxy: TcpProxy) -> None:
    refused_at_once(
        replace(config, vhost="nowhere"), proxy, AccessRefusedError, "vhost nowhere not found"
    )


def test_a_user_without_permissions(config: BrokerConfig, proxy: TcpProxy, restricted: str) -> None:
    refused_at_once(
        replace(config, user=restricted, password=restricted),
        proxy,
        AccessRefusedError,
        f"refused user '{restricted}': .*access to vhost '/'",
    )


def test_a_user_who_may_not_declare_needs_the_queue_to_exist(
    config: BrokerConfig,
    proxy: TcpProxy,
    rabbitmq_server: LocalRabbitMQ,
    restricted: str,
    queue: Queue,
) -> None:
    rabbitmq_server.ctl("set_permissions", restricted, "^$", ".*", ".*")
    theirs = replace(config, user=restricted, password=restricted)

    refused_at_once(
        theirs,
        proxy,
        QueueUnavailableError,
        f"'{queue.name}' does not exist.* user '{restricted}' may not declare it",
    )

    queue.declare()
    publish(theirs, messages(1))
    assert queue.count() == 1


def test_a_user_who_may_not_publish(
    config: BrokerConfig, proxy: TcpProxy, rabbitmq_server: LocalRabbitMQ, restricted: str
) -> None:
    rabbitmq_server.ctl("set_permissions", restricted, ".*", "^$", ".*")

    refused_at_once(
        replace(config, user=restricted, password=restricted),
        proxy,
        AccessRefusedError,
        f"user '{restricted}' may not publish",
    )


@pytest.fixture
def vhost_limits(rabbitmq_server: LocalRabbitMQ) -> Iterator[Callable[[str], object]]:
    """Sets limits of the virtual host, as JSON, for a test."""
    arguments = "-p", rabbitmq_server.vhost
    yield lambda limits: rabbitmq_server.ctl("set_vhost_limits", *arguments, limits)
    rabbitmq_server.ctl("clear_vhost_limits", *arguments)


@pytest.mark.usefixtures("queue")
def test_too_many_connections_pass(
    config: BrokerConfig, vhost_limits: Callable[[str], object]
) -> None:
    vhost_limits('{"max-connections": 0}')

    with pytest.raises(BrokerUnreachableError, match=r"connection limit \(0\) is reached"):
        publish(config, messages(1))


def test_too_many_queues(
    config: BrokerConfig, proxy: TcpProxy, vhost_limits: Callable[[str], object]
) -> None:
    vhost_limits('{"max-queues": 0}')

    refused_at_once(config, proxy, QueueUnavailableError, "queue limit in vhost '/'.*is reached")


# What RabbitMQ says of a queue whose node is down, which takes more than one node to see.
@pytest.mark.parametrize(
    "words",
    [
        "NOT_FOUND - home node 'r@b' of durable queue 'q' in vhost '/' is down or inaccessible",
        "NOT_FOUND - queue 'q' in vhost '/' process is stopped by supervisor",
        "NOT_FOUND - queue 'q' in vhost '/' has crashed and failed to restart",
    ],
)
def test_a_queue_that_is_down_will_be_back(config: BrokerConfig, words: str) -> None:
    error = queue_error(config, ChannelClosedByBroker(NOT_FOUND, words))

    assert isinstance(error, QueueDownError)
    assert error.retryable
    assert words in str(error)


@pytest.mark.parametrize("words", ["configured max size", "max size"])
def test_the_size_limit_is_read_from_both_wordings(words: str) -> None:
    text = f"PRECONDITION_FAILED - message size 134217729 is larger than {words} 134217728"

    assert size_limit(ChannelClosedByBroker(PRECONDITION_FAILED, text)) == 134217728
    assert size_limit(ChannelClosedByBroker(PRECONDITION_FAILED, "unknown delivery tag")) is None
