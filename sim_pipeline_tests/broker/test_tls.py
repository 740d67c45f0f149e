"""TLS to the broker: encrypted, and only with the one that the certificate is for."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.broker.errors import BrokerUnreachableError, TlsError
from sim_pipeline.broker.publisher import Publisher
from sim_pipeline.local_servers.rabbitmq import LocalRabbitMQ
from sim_pipeline_tests.broker.harness import Queue, ids, messages, publish
from sim_pipeline_tests.support.certificates import Authority
from sim_pipeline_tests.support.tcp_proxy import Direction, TcpProxy
from sim_pipeline_tests.support.waiting import wait_until


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path)


@pytest.fixture
def tls_proxy(authority: Authority, rabbitmq_server: LocalRabbitMQ) -> Iterator[TcpProxy]:
    """Ends TLS before the node, as localhost."""
    with TcpProxy(
        (rabbitmq_server.host, rabbitmq_server.port), tls=authority.server_context("localhost")
    ) as proxy:
        yield proxy


@pytest.fixture
def tls_config(config: BrokerConfig, tls_proxy: TcpProxy, authority: Authority) -> BrokerConfig:
    return replace(
        config, host="localhost", port=tls_proxy.port, tls=True, ca_file=authority.ca_file
    )


def refused_at_once(config: BrokerConfig, proxy: TcpProxy, words: str) -> None:
    encountered = proxy.accepted
    with pytest.raises(TlsError, match=words) as info:
        publish(config, messages(1))
    assert not info.value.retryable
    assert proxy.accepted <= encountered + 1


def test_messages_arrive_by_tls(
    tls_config: BrokerConfig, tls_proxy: TcpProxy, queue: Queue
) -> None:
    sent = messages(2000, b"x" * 1000)

    publish(tls_config, sent)

    assert ids(queue.drain()) == ids(sent)
    assert tls_proxy.accepted == 1
    wait_until(lambda: tls_proxy.open_connections == 0)


def test_a_reset_in_the_middle_of_tls_loses_nothing(
    tls_config: BrokerConfig, tls_proxy: TcpProxy, queue: Queue
) -> None:
    sent = messages(2000, b"x" * 300)
    tls_proxy.reset_after(200_000, Direction.TO_SERVER)

    with Publisher(tls_config) as publisher:
        report = publisher.publish(sent)

    assert report.confirmed == ids(sent)
    assert tls_proxy.accepted == 2
    assert ids(queue.drain()) == ids(sent)


def test_an_unknown_authority_is_not_trusted(
    tls_config: BrokerConfig, tls_proxy: TcpProxy, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Authority.make(tmp_path / "other").ca_file

    refused_at_once(
        replace(tls_config, ca_file=other),
        tls_proxy,
        f"no trust in amqps://localhost.* that {other} holds the authority that signed it",
    )


def test_without_a_ca_file_the_systems_authorities_count(
    tls_config: BrokerConfig, tls_proxy: TcpProxy
) -> None:
    refused_at_once(
        replace(tls_config, ca_file=None), tls_proxy, "no trust.*the system's store of authorities"
    )


def test_a_certificate_for_another_host_is_not_trusted(
    tls_config: BrokerConfig, tls_proxy: TcpProxy
) -> None:
    refused_at_once(
        replace(tls_config, host="127.0.0.1"), tls_proxy, "no trust.*not valid for '127.0.0.1'"
    )


def test_a_port_without_tls_is_named(tls_config: BrokerConfig, proxy: TcpProxy) -> None:
    refused_at_once(
        replace(tls_config, port=proxy.port), proxy, "no TLS with amqps://.*its port for TLS"
    )


def test_a_port_that_wants_tls_is_named(tls_config: BrokerConfig) -> None:
    with pytest.raises(BrokerUnreachableError, match="does its port want TLS"):
        publish(replace(tls_config, tls=False, ca_file=None, attempts=1), messages(1))


@pytest.mark.parametrize("content", [None, "", "not a certificate"])
def test_a_ca_file_that_cannot_be_used_is_named(
    tls_config: BrokerConfig, tls_proxy: TcpProxy, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "wrong.pem"
    if content is not None:
        file.write_text(content)

    refused_at_once(replace(tls_config, ca_file=file), tls_proxy, f"CA file {file} cannot be used")
    assert tls_proxy.accepted == 0


def test_a_connection_that_cannot_begin_leaves_no_file_open(
    tls_config: BrokerConfig, tls_proxy: TcpProxy
) -> None:
    wrong_host = replace(tls_config, host="127.0.0.1")
    process = psutil.Process()
    refused_at_once(wrong_host, tls_proxy, "not valid")
    before = process.num_fds()

    for _ in range(5):
        refused_at_once(wrong_host, tls_proxy, "not valid")

    wait_until(lambda: process.num_fds() <= before)
