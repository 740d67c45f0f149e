"""TLS to the broker: encryption and verification of the certificate."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.broker.errors import BrokerErrorKind
from sim_pipeline.broker.publisher import Publisher
from sim_pipeline.local_servers.rabbitmq import LocalRabbitMQ
from sim_pipeline_tests.broker.harness import Queue, ids, messages, publish, raises
from sim_pipeline_tests.support.assertions import wait_until
from sim_pipeline_tests.support.certificates import Authority
from sim_pipeline_tests.support.tcp_proxy import Direction, TcpProxy


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path)


@pytest.fixture
def tls_proxy(authority: Authority, rabbitmq_server: LocalRabbitMQ) -> Iterator[TcpProxy]:
    """A proxy that terminates TLS in front of RabbitMQ, as localhost."""
    with TcpProxy(
        (rabbitmq_server.host, rabbitmq_server.port), tls=authority.server_context("localhost")
    ) as proxy:
        yield proxy


@pytest.fixture
def tls_config(config: BrokerConfig, tls_proxy: TcpProxy, authority: Authority) -> BrokerConfig:
    return replace(
        config, host="localhost", port=tls_proxy.port, tls=True, ca_file=authority.ca_file
    )


def fails_without_retry(config: BrokerConfig, proxy: TcpProxy, words: str) -> None:
    before = proxy.accepted
    with raises(BrokerErrorKind.TLS, match=words) as info:
        publish(config, messages(1))
    assert not info.value.retryable
    assert proxy.accepted <= before + 1


def test_messages_arrive_over_tls(
    tls_config: BrokerConfig, tls_proxy: TcpProxy, queue: Queue
) -> None:
    sent = messages(2000, b"x" * 1000)

    publish(tls_config, sent)

    assert ids(queue.drain()) == ids(sent)
    assert tls_proxy.accepted == 1
    wait_until(lambda: tls_proxy.open_connections == 0)


def test_reset_during_tls_loses_no_message(
    tls_config: BrokerConfig, tls_proxy: TcpProxy, queue: Queue
) -> None:
    sent = messages(2000, b"x" * 300)
    tls_proxy.reset_after(200_000, Direction.TO_SERVER)

    with Publisher(tls_config) as publisher:
        report = publisher.publish(sent)

    assert report.confirmed == ids(sent)
    assert tls_proxy.accepted == 2
    assert ids(queue.drain()) == ids(sent)


def test_unknown_ca_is_rejected(
    tls_config: BrokerConfig, tls_proxy: TcpProxy, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Authority.make(tmp_path / "other").ca_file

    fails_without_retry(
        replace(tls_config, ca_file=other),
        tls_proxy,
        f"TLS verification failed for amqps://localhost.* that {other} contains the CA that signed",
    )


def test_system_cas_are_the_default(tls_config: BrokerConfig, tls_proxy: TcpProxy) -> None:
    fails_without_retry(
        replace(tls_config, ca_file=None),
        tls_proxy,
        "TLS verification failed.*the system's trust store",
    )


def test_certificate_of_another_host_is_rejected(
    tls_config: BrokerConfig, tls_proxy: TcpProxy
) -> None:
    fails_without_retry(
        replace(tls_config, host="127.0.0.1"),
        tls_proxy,
        "TLS verification failed.*not valid for '127.0.0.1'",
    )


def test_port_without_tls_is_reported(tls_config: BrokerConfig, proxy: TcpProxy) -> None:
    fails_without_retry(
        replace(tls_config, port=proxy.port),
        proxy,
        "TLS handshake failed with amqps://.*its TLS port",
    )


def test_port_that_requires_tls_is_reported(tls_config: BrokerConfig) -> None:
    with raises(BrokerErrorKind.UNREACHABLE, match="whether its port requires TLS"):
        publish(replace(tls_config, tls=False, ca_file=None, attempts=1), messages(1))


@pytest.mark.parametrize("content", [None, "", "not a certificate"])
def test_unusable_ca_file_is_reported(
    tls_config: BrokerConfig, tls_proxy: TcpProxy, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "wrong.pem"
    if content is not None:
        file.write_text(content)

    fails_without_retry(
        replace(tls_config, ca_file=file), tls_proxy, f"CA file {file} cannot be used"
    )
    assert tls_proxy.accepted == 0


def test_failed_connection_leaves_no_file_open(
    tls_config: BrokerConfig, tls_proxy: TcpProxy
) -> None:
    wrong_host = replace(tls_config, host="127.0.0.1")
    process = psutil.Process()
    fails_without_retry(wrong_host, tls_proxy, "not valid")
    before = process.num_fds()

    for _ in range(5):
        fails_without_retry(wrong_host, tls_proxy, "not valid")

    wait_until(lambda: process.num_fds() <= before)
