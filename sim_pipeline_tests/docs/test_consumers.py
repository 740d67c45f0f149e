"""The example consumers in docs/consumers, with a real RabbitMQ behind a proxy."""

import dataclasses
import json
import os
import queue
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pika
import pytest

from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.broker.message import MESSAGE_TYPE, OutgoingMessage, encode, message_id
from sim_pipeline.local_servers.rabbitmq import LocalRabbitMQ
from sim_pipeline.metrics import METRICS
from sim_pipeline_tests.broker.harness import Queue, messages, publish
from sim_pipeline_tests.docs import npm
from sim_pipeline_tests.support.assertions import wait_until
from sim_pipeline_tests.support.certificates import Authority
from sim_pipeline_tests.support.tcp_proxy import Direction, TcpProxy

CONSUMERS = Path(__file__).parents[2] / "docs" / "consumers"
WINDOW = datetime(2026, 11, 20, tzinfo=UTC)
SECONDS = 30


class Consumer:
    """A running consumer and its output."""

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
        """Wait for `count` complete simulations; return the model names in order."""
        lines = [self._lines.get(timeout=SECONDS).split() for _ in range(count * len(METRICS))]
        names = [line[0] for line in lines[:: len(METRICS)]]
        assert [line[:2] for line in lines] == [
            [name, metric] for name in names for metric in METRICS
        ]
        return names

    def terminate(self) -> None:
        """Send SIGTERM; check that it exits with status 0 and prints nothing more."""
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
    """The command that starts the consumer, for each language."""
    if request.param == "python":
        return [sys.executable, str(CONSUMERS / "consumer.py")]
    return list(request.getfixturevalue("node_consumer"))


@pytest.fixture
def source(rabbitmq_server: LocalRabbitMQ) -> Iterator[Queue]:
    """The queue to consume, empty at first."""
    with pika.BlockingConnection(rabbitmq_server.connection_parameters()) as connection:
        source = Queue(connection, f"test-{uuid4()}")
        source.declare(x_queue_type="quorum")
        yield source
        source.delete()


@pytest.fixture
def dead_letters(rabbitmq_server: LocalRabbitMQ, source: Queue) -> Iterator[Queue]:
    """The dead-letter queue, which the consumer declares."""
    with pika.BlockingConnection(rabbitmq_server.connection_parameters()) as connection:
        dead_letters = Queue(connection, f"{source.name}.dead-letter")
        yield dead_letters
        dead_letters.delete()


@pytest.fixture
def config(rabbitmq_server: LocalRabbitMQ, source: Queue) -> BrokerConfig:
    """The configuration of the publisher, without a proxy."""
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
    """A proxy between the consumer and RabbitMQ."""
    with TcpProxy((rabbitmq_server.host, rabbitmq_server.port)) as proxy:
        yield proxy


@pytest.fixture
def environment(
    config: BrokerConfig,
    proxy: TcpProxy,
    dead_letters: Queue,  # noqa: ARG001 - deletes the queue after the test
) -> dict[str, str]:
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
    """Publish one simulation of each model, in order. A model always has the same one."""
    values = np.arange(8.0).reshape(4, 2)
    for name in names:
        publish(
            config,
            [OutgoingMessage(message_id(name, WINDOW, "f"), encode(name, WINDOW, values))],
        )


def put(server: LocalRabbitMQ, queue: Queue, body: bytes, **properties: Any) -> None:
    """Publish a message with only these properties, unlike the pipeline."""
    with pika.BlockingConnection(server.connection_parameters()) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("", queue.name, body, pika.BasicProperties(**properties))


def test_duplicates_are_dropped(
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

        # The acknowledgement of the third is lost, so the broker delivers it again.
        proxy.half_open(Direction.TO_SERVER)
        send(config, "three")
        assert consumer.simulations(1) == ["three"]
        proxy.reset()
        send(config, "four")

        assert consumer.simulations(1) == ["four"]
        assert proxy.accepted == 2
        consumer.terminate()
    # All messages were acknowledged, or they would be back in the queue.
    assert source.count() == 0


def test_consumer_waits_for_the_broker(
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


def test_consumer_waits_for_the_queue(
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


def test_consumer_ends_while_the_broker_is_away(
    command: list[str], environment: dict[str, str], proxy: TcpProxy
) -> None:
    proxy.refuse()
    with running(command, environment) as consumer:
        wait_until(lambda: bool(consumer.errors))
        consumer.terminate()


def test_number_of_remembered_ids_is_limited(
    command: list[str], environment: dict[str, str], config: BrokerConfig
) -> None:
    with running(command, environment | {"SEEN_IDS": "2"}) as consumer:
        send(config, "one", "two", "three", "two", "one")

        assert consumer.simulations(4) == ["one", "two", "three", "one"]
        consumer.terminate()


def test_poison_message_becomes_a_dead_letter(
    command: list[str],
    environment: dict[str, str],
    config: BrokerConfig,
    source: Queue,
    dead_letters: Queue,
) -> None:
    poison = messages(1, b"not JSON")
    with running(command, environment) as consumer:
        publish(config, poison)
        send(config, "one")
        assert consumer.simulations(1) == ["one"]
        consumer.terminate()

    attempts = re.findall(
        rf"^{poison[0].message_id}, attempt (\d)", "".join(consumer.errors), re.MULTILINE
    )
    assert attempts == ["1", "2", "3"]
    assert source.count() == 0
    # The broker refuses a declaration that differs from the existing queue.
    dead_letters.declare(durable=True, x_queue_type="quorum", x_delivery_limit=1_000_000_000)
    (dead,) = dead_letters.drain()
    assert dead.body == b"not JSON"
    assert dead.message_id == poison[0].message_id
    assert "JSON" in str((dead.properties.headers or {})["error"])
    assert dead.properties.delivery_mode == 2
    assert dead.properties.type == MESSAGE_TYPE
    assert dead.properties.content_type == "application/json"


def test_permissions_of_the_readme_are_enough(
    command: list[str],
    environment: dict[str, str],
    config: BrokerConfig,
    rabbitmq_server: LocalRabbitMQ,
    dead_letters: Queue,
) -> None:
    readme = (CONSUMERS / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    line = next(line for line in readme.splitlines() if "set_permissions" in line)
    _, _, user, *rights = shlex.split(line.replace("simulation_results", re.escape(config.queue)))
    publish(config, messages(1, b"not JSON"))
    rabbitmq_server.ctl("add_user", user, "secret")
    try:
        rabbitmq_server.ctl("set_permissions", user, *rights)
        limited = environment | {"RABBITMQ_USER": user, "RABBITMQ_PASSWORD": "secret"}
        with running(command, limited) as consumer:
            wait_until(lambda: dead_letters.count() == 1)
            consumer.terminate()
    finally:
        rabbitmq_server.ctl("delete_user", user)


def test_existing_dead_letter_queue_is_used(
    command: list[str],
    environment: dict[str, str],
    config: BrokerConfig,
    source: Queue,
    dead_letters: Queue,
) -> None:
    dead_letters.declare(x_max_length=100)
    publish(config, messages(1, b"not JSON"))
    with running(command, environment) as consumer:
        wait_until(lambda: dead_letters.count() == 1)
        consumer.terminate()
    assert source.count() == 0


def test_message_stays_if_the_dead_letter_fails(
    command: list[str],
    environment: dict[str, str],
    config: BrokerConfig,
    source: Queue,
    dead_letters: Queue,
) -> None:
    dead_letters.declare(x_max_length=1, x_overflow="reject-publish")
    publish(dataclasses.replace(config, queue=dead_letters.name), messages(1))
    publish(config, messages(1, b"not JSON"))
    with running(command, environment) as consumer:
        wait_until(lambda: sum("attempt 3" in error for error in consumer.errors) == 2)
        dead_letters.drain()
        wait_until(lambda: dead_letters.count() == 1)
        consumer.terminate()
    assert source.count() == 0


def test_system_error_ends_the_consumer(
    command: list[str],
    environment: dict[str, str],
    config: BrokerConfig,
    source: Queue,
    dead_letters: Queue,
) -> None:
    send(config, "one")
    with Path("/dev/full").open("wb") as disk:
        done = subprocess.run(
            command,
            env={**os.environ, **environment},
            stdout=disk,
            stderr=subprocess.PIPE,
            timeout=SECONDS,
            check=False,
        )
    # 120 if Python also fails to flush the output at its end, as from some versions of 3.13 on.
    assert done.returncode in {1, 120}, done.stderr
    wait_until(lambda: source.count() == 1)
    assert dead_letters.count() == 0


def test_messages_without_id_are_all_processed(
    command: list[str],
    environment: dict[str, str],
    rabbitmq_server: LocalRabbitMQ,
    source: Queue,
) -> None:
    with running(command, environment) as consumer:
        for name in ("one", "two"):
            put(rabbitmq_server, source, encode(name, WINDOW, np.arange(8.0).reshape(4, 2)))
        assert consumer.simulations(2) == ["one", "two"]
        consumer.terminate()


def test_dead_letters_are_printed_and_sent_back(
    environment: dict[str, str],
    rabbitmq_server: LocalRabbitMQ,
    source: Queue,
    dead_letters: Queue,
) -> None:
    dead_letters.declare(x_queue_type="quorum")
    sent = messages(2, b"not JSON")
    for message in sent:
        put(
            rabbitmq_server,
            dead_letters,
            message.body,
            message_id=str(message.message_id),
            headers={"error": "why"},
        )
    command = [sys.executable, str(CONSUMERS / "dead_letters.py")]
    lines = [
        {"message_id": str(message.message_id), "error": "why", "body": "not JSON"}
        for message in sent
    ]

    for _ in range(2):
        shown = subprocess.check_output(command, env={**os.environ, **environment}, text=True)
        assert [json.loads(line) for line in shown.splitlines()] == lines
        assert (source.count(), dead_letters.count()) == (0, 2)
    subprocess.check_output([*command, "--send-back"], env={**os.environ, **environment})

    assert dead_letters.count() == 0
    received = source.drain()
    assert [message.message_id for message in received] == [message.message_id for message in sent]
    assert all("error" not in (message.properties.headers or {}) for message in received)


def test_ipv6_address_may_have_brackets(
    command: list[str],
    environment: dict[str, str],
    config: BrokerConfig,
    rabbitmq_server: LocalRabbitMQ,
) -> None:
    with TcpProxy((rabbitmq_server.host, rabbitmq_server.port)) as proxy:
        proxy.refuse()
        proxy.host = "::1"
        proxy.heal()
        with_ipv6 = environment | {"RABBITMQ_HOST": "[::1]", "RABBITMQ_PORT": str(proxy.port)}
        with running(command, with_ipv6) as consumer:
            send(config, "one")
            assert consumer.simulations(1) == ["one"]
            consumer.terminate()


def test_tls_verifies_the_broker(
    command: list[str],
    environment: dict[str, str],
    config: BrokerConfig,
    rabbitmq_server: LocalRabbitMQ,
    tmp_path: Path,
) -> None:
    authority = Authority.make(tmp_path)
    node = (rabbitmq_server.host, rabbitmq_server.port)
    with TcpProxy(node, tls=authority.server_context("localhost")) as proxy:
        with_tls = environment | {
            "RABBITMQ_HOST": "localhost",
            "RABBITMQ_PORT": str(proxy.port),
            "RABBITMQ_TLS": "true",
        }
        send(config, "one")
        with running(command, with_tls) as consumer:
            wait_until(lambda: bool(consumer.errors))
            assert re.search("(?i)certificate", consumer.errors[0])
            consumer.terminate()
        with running(command, with_tls | {"RABBITMQ_CA_FILE": str(authority.ca_file)}) as consumer:
            assert consumer.simulations(1) == ["one"]
            consumer.terminate()


def test_defaults_match_the_pipeline() -> None:
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
