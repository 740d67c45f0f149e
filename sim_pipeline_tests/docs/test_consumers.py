"""The consumers under docs/consumers, against a real broker behind a proxy that cuts."""

import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import numpy as np
import pika
import pytest

from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.broker.message import OutgoingMessage, encode, message_id
from sim_pipeline.metrics import METRICS
from sim_pipeline.service.rabbitmq import LocalRabbitMQ
from sim_pipeline_tests.broker.harness import Queue, messages, publish
from sim_pipeline_tests.certificates import Authority
from sim_pipeline_tests.docs import npm
from sim_pipeline_tests.tcp_proxy import Direction, TcpProxy
from sim_pipeline_tests.waiting import wait_until

CONSUMERS = Path(__file__).parents[2] / "docs" / "consumers"
WINDOW = datetime(2026, 11, 20, tzinfo=UTC)
SECONDS = 30


class Consumer:
    """A consumer that runs, and what it has said so far."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.errors: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self._threads = [
            threading.Thread(target=self._read_output),
            threading.Thread(target=self._read_errors),
        ]
        for thread in self._threads:
            thread.start()

    def simulations(self, count: int) -> list[str]:
        """Wait for so many simulations, each whole; the models' names, as they came."""
        lines = [self._lines.get(timeout=SECONDS).split() for _ in range(count * len(METRICS))]
        names = [line[0] for line in lines[:: len(METRICS)]]
        assert [line[:2] for line in lines] == [
            [name, metric] for name in names for metric in METRICS
        ]
        return names

    def terminate(self) -> None:
        """Ask it to end, and see that it does, well, having said nothing more."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(SECONDS) == 0, self.errors
        for thread in self._threads:
            thread.join()
        assert self._lines.empty()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for thread in self._threads:
            thread.join()

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self._lines.put(line)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            self.errors.extend(stream)


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Consumer]:
    consumer = Consumer(command, environment)
    try:
        yield consumer
    finally:
        consumer.kill()


@pytest.fixture(scope="module")
def node_consumer(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    directory = tmp_path_factory.mktemp("consumer")
    shutil.copy(CONSUMERS / "consumer.mjs", directory)
    npm.install(CONSUMERS, directory)
    return ["node", str(directory / "consumer.mjs")]


@pytest.fixture(params=["python", "node"])
def command(request: pytest.FixtureRequest) -> list[str]:
    """What starts the consumer, in each language."""
    if request.param == "python":
        return [sys.executable, str(CONSUMERS / "consumer.py")]
    return list(request.getfixturevalue("node_consumer"))


@pytest.fixture
def source(rabbitmq_server: LocalRabbitMQ) -> Iterator[Queue]:
    """The queue to consume, empty."""
    with pika.BlockingConnection(rabbitmq_server.connection_parameters()) as connection:
        source = Queue(connection, f"test-{uuid4()}")
        source.declare(x_queue_type="quorum")
        yield source
        source.delete()


@pytest.fixture
def config(rabbitmq_server: LocalRabbitMQ, source: Queue) -> BrokerConfig:
    """The way of the publisher, past any proxy."""
    return BrokerConfig(
        host=rabbitmq_server.host,
        port=rabbitmq_server.port,
        user=rabbitmq_server.user,
        password=rabbitmq_server.password,
        vhost=rabbitmq_server.vhost,
        queue=source.name,
    )


@pytest.fixture
def proxy(rabbitmq_server: LocalRabbitMQ) -> Iterator[TcpProxy]:
    """Stands between the consumer and the node."""
    with TcpProxy((rabbitmq_server.host, rabbitmq_server.port)) as proxy:
        yield proxy


@pytest.fixture
def environment(config: BrokerConfig, proxy: TcpProxy) -> dict[str, str]:
    return {
        "RABBITMQ_HOST": proxy.host,
        "RABBITMQ_PORT": str(proxy.port),
        "RABBITMQ_USER": config.user,
        "RABBITMQ_PASSWORD": config.password,
        "RABBITMQ_VHOST": config.vhost,
        "RABBITMQ_QUEUE": config.queue,
        "RABBITMQ_TLS": "false",
        "RABBITMQ_CA_FILE": "",
    }


def send(config: BrokerConfig, *names: str) -> None:
    """Publish one simulation of each model, one after the other: the same each time."""
    values = np.arange(8.0).reshape(4, 2)
    for name in names:
        publish(
            config,
            [OutgoingMessage(message_id(name, WINDOW, "f"), encode(name, WINDOW, values))],
        )


def test_each_simulation_is_printed_once_though_sent_twice_and_the_connection_is_cut(
    command: list[str],
    environment: dict[str, str],
    config: BrokerConfig,
    proxy: TcpProxy,
    source: Queue,
) -> None:
    with running(command, environment) as consumer:
        send(config, "one", "one", "two")
        assert consumer.simulations(2) == ["one", "two"]
        wait_until(lambda: proxy.open_connections == 1)

        # Its acknowledgement of the third is lost: the broker gives it out again.
        proxy.half_open(Direction.TO_SERVER)
        send(config, "three")
        assert consumer.simulations(1) == ["three"]
        proxy.reset()
        send(config, "four")

        assert consumer.simulations(1) == ["four"]
        assert proxy.accepted == 2
        consumer.terminate()
    # Everything was acknowledged, else it would be back.
    assert source.count() == 0


def test_a_broker_that_is_away_is_waited_for(
    command: list[str], environment: dict[str, str], config: BrokerConfig, proxy: TcpProxy
) -> None:
    proxy.refuse()
    with running(command, environment) as consumer:
        wait_until(lambda: len(consumer.errors) >= 2)
        assert all(re.search(r"next attempt (with)?in [0-9.]+ s$", e) for e in consumer.errors)
        assert config.password not in "".join(consumer.errors)
        proxy.heal()
        send(config, "one")

        assert consumer.simulations(1) == ["one"]
        consumer.terminate()


def test_a_queue_that_is_not_there_yet_is_waited_for(
    command: list[str], environment: dict[str, str], config: BrokerConfig, source: Queue
) -> None:
    source.delete()
    with running(command, environment) as consumer:
        wait_until(lambda: "no queue" in "".join(consumer.errors))
        send(config, "one")
        assert consumer.simulations(1) == ["one"]

        consumer.errors.clear()
        source.delete()
        wait_until(lambda: "no queue" in "".join(consumer.errors))
        send(config, "two")
        assert consumer.simulations(1) == ["two"]
        consumer.terminate()


def test_it_ends_when_asked_to_while_the_broker_is_away(
    command: list[str], environment: dict[str, str], proxy: TcpProxy
) -> None:
    proxy.refuse()
    with running(command, environment) as consumer:
        wait_until(lambda: bool(consumer.errors))
        consumer.terminate()


def test_memory_of_ids_is_bounded(
    command: list[str], environment: dict[str, str], config: BrokerConfig
) -> None:
    with running(command, environment | {"SEEN_IDS": "2"}) as consumer:
        send(config, "one", "two", "three", "two", "one")

        assert consumer.simulations(4) == ["one", "two", "three", "one"]
        consumer.terminate()


def test_a_message_that_it_cannot_deal_with_ends_it_and_stays_in_the_queue(
    command: list[str], environment: dict[str, str], config: BrokerConfig, source: Queue
) -> None:
    publish(config, messages(1, b"not JSON"))
    with running(command, environment) as consumer:
        assert consumer.process.wait(SECONDS) == 1
    assert "JSON" in "".join(consumer.errors)
    wait_until(lambda: source.count() == 1)


def test_it_speaks_tls_and_verifies_the_broker(
    command: list[str],
    environment: dict[str, str],
    config: BrokerConfig,
    rabbitmq_server: LocalRabbitMQ,
    tmp_path: Path,
) -> None:
    authority = Authority.make(tmp_path)
    node = (rabbitmq_server.host, rabbitmq_server.port)
    with TcpProxy(node, tls=authority.server_context("localhost")) as proxy:
        by_tls = environment | {
            "RABBITMQ_HOST": "localhost",
            "RABBITMQ_PORT": str(proxy.port),
            "RABBITMQ_TLS": "true",
        }
        send(config, "one")
        with running(command, by_tls) as consumer:
            wait_until(lambda: bool(consumer.errors))
            assert re.search("(?i)certificate", consumer.errors[0])
            consumer.terminate()
        with running(command, by_tls | {"RABBITMQ_CA_FILE": str(authority.ca_file)}) as consumer:
            assert consumer.simulations(1) == ["one"]
            consumer.terminate()


def test_defaults_are_those_of_the_pipeline() -> None:
    sample = dict(
        re.findall(
            r"^(RABBITMQ_\w+)=(.*)$",
            (CONSUMERS.parents[1] / ".env.sample").read_text(encoding="utf-8"),
            flags=re.MULTILINE,
        )
    )
    for file in ("consumer.py", "consumer.mjs"):
        text = (CONSUMERS / file).read_text(encoding="utf-8")
        for name in ("HOST", "PORT", "USER", "VHOST", "QUEUE"):
            default = sample[f"RABBITMQ_{name}"]
            assert re.search(rf'RABBITMQ_{name}(", | \?\? )"?{re.escape(default)}"?', text), name
