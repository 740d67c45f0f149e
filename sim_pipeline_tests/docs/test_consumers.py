"""The consumers under docs/consumers, against a real broker behind a proxy that cuts."""

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
from sim_pipeline_tests.support.certificates import Authority
from sim_pipeline_tests.support.tcp_proxy import Direction, TcpProxy
from sim_pipeline_tests.support.waiting import wait_until

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
def dead_letters(rabbitmq_server: LocalRabbitMQ, source: Queue) -> Iterator[Queue]:
    """The queue that the consumer puts aside messages in; the consumer declares it."""
    with pika.BlockingConnection(rabbitmq_server.connection_parameters()) as connection:
        dead_letters = Queue(connection, f"{source.name}.dead-letter")
        yield dead_letters
        dead_letters.delete()


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
def environment(
    config: BrokerConfig,
    proxy: TcpProxy,
    dead_letters: Queue,  # noqa: ARG001 - for what it deletes
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
    """Publish one simulation of each model, one after the other: the same each time."""
    values = np.arange(8.0).reshape(4, 2)
    for name in names:
        publish(
            config,
            [OutgoingMessage(message_id(name, WINDOW, "f"), encode(name, WINDOW, values))],
        )


def put(server: LocalRabbitMQ, queue: Queue, body: bytes, **properties: Any) -> None:
    """Publish a message that the pipeline would not: with these properties only."""
    with pika.BlockingConnection(server.connection_parameters()) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("", queue.name, body, pika.BasicProperties(**properties))


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


def test_a_poison_message_goes_to_the_dead_letters(
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
    # The broker refuses a declaration that differs from what is there.
    dead_letters.declare(durable=True, x_queue_type="quorum")
    (dead,) = dead_letters.drain()
    assert dead.body == b"not JSON"
    assert dead.message_id == poison[0].message_id
    assert "JSON" in str((dead.properties.headers or {})["error"])
    assert dead.properties.delivery_mode == 2
    assert dead.properties.type == MESSAGE_TYPE
    assert dead.properties.content_type == "application/json"


def test_the_rights_that_its_readme_names_are_enough(
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


def test_a_dead_letter_queue_that_exists_is_used(
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


def test_a_message_it_cannot_put_aside_stays(
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


def test_what_no_message_is_to_blame_for_ends_it(
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
    assert done.returncode == 1, done.stderr
    wait_until(lambda: source.count() == 1)
    assert dead_letters.count() == 0


def test_messages_without_an_id_are_all_dealt_with(
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


def test_dead_letters_are_shown_and_sent_back(
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
    assert [message.message_id for message in received] == [one.message_id for one in sent]
    assert all("error" not in (message.properties.headers or {}) for message in received)


def test_brackets_around_an_ipv6_address_are_taken(
    command: list[str],
    environment: dict[str, str],
    config: BrokerConfig,
    rabbitmq_server: LocalRabbitMQ,
) -> None:
    with TcpProxy((rabbitmq_server.host, rabbitmq_server.port)) as proxy:
        proxy.refuse()
        proxy.host = "::1"
        proxy.heal()
        by_ipv6 = environment | {"RABBITMQ_HOST": "[::1]", "RABBITMQ_PORT": str(proxy.port)}
        with running(command, by_ipv6) as consumer:
            send(config, "one")
            assert consumer.simulations(1) == ["one"]
            consumer.terminate()


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
