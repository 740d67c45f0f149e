"""Fixtures: a queue for each test, a proxy in front of RabbitMQ, and a configuration for it."""

from collections.abc import Iterator
from uuid import uuid4

import pika
import pytest

from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.local_servers.rabbitmq import LocalRabbitMQ
from sim_pipeline_tests.broker.harness import Queue
from sim_pipeline_tests.support.tcp_proxy import TcpProxy


@pytest.fixture
def queue(rabbitmq_server: LocalRabbitMQ) -> Iterator[Queue]:
    """A queue that is not declared yet; deleted after the test."""
    connection = pika.BlockingConnection(rabbitmq_server.connection_parameters())
    queue = Queue(connection, f"test-{uuid4()}")
    yield queue
    queue.delete()
    connection.close()


@pytest.fixture
def proxy(rabbitmq_server: LocalRabbitMQ) -> Iterator[TcpProxy]:
    """A proxy between the publisher and RabbitMQ."""
    with TcpProxy((rabbitmq_server.host, rabbitmq_server.port)) as proxy:
        yield proxy


@pytest.fixture
def config(rabbitmq_server: LocalRabbitMQ, proxy: TcpProxy, queue: Queue) -> BrokerConfig:
    """Uses the queue of the test through the proxy, with short pauses."""
    return BrokerConfig(
        host=proxy.host,
        port=proxy.port,
        user=rabbitmq_server.user,
        password=rabbitmq_server.password,
        vhost=rabbitmq_server.vhost,
        queue=queue.name,
        attempts=3,
        backoff=0.02,
    )
