"""Helpers for tests that use RabbitMQ: messages, queues, and the expected error."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker

from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.broker.errors import BrokerError, BrokerErrorKind
from sim_pipeline.broker.message import OutgoingMessage
from sim_pipeline.broker.publisher import Publisher

T = TypeVar("T")

BODY = b'[{"llm_name":"GPT-4o","metric":"TTFT","values":[0.5]}]'


@dataclass(frozen=True)
class Received:
    """A message taken from the queue."""

    properties: pika.BasicProperties
    body: bytes

    @property
    def message_id(self) -> UUID:
        """The property `message_id`."""
        return UUID(self.properties.message_id)


class Queue:
    """The queue of a test, accessed over a connection of the test."""

    def __init__(self, connection: pika.BlockingConnection, name: str) -> None:
        self.name = name
        self._connection = connection

    def declare(self, *, durable: bool = True, exclusive: bool = False, **arguments: Any) -> None:
        """Declare the queue, with arguments such as `x_max_length=3`."""
        with self._connection.channel() as channel:
            channel.queue_declare(
                self.name,
                durable=durable,
                exclusive=exclusive,
                arguments={name.replace("_", "-"): value for name, value in arguments.items()},
            )

    def delete(self) -> None:
        """Delete the queue and its messages."""
        with self._connection.channel() as channel:
            channel.queue_delete(self.name)

    def count(self) -> int:
        """Return the number of ready messages; 0 if the queue does not exist."""
        try:
            with self._connection.channel() as channel:
                return int(channel.queue_declare(self.name, passive=True).method.message_count)
        except ChannelClosedByBroker:
            return 0

    def drain(self) -> list[Received]:
        """Take all messages from the queue."""
        received: list[Received] = []
        with self._connection.channel() as channel:
            while True:
                method, properties, body = channel.basic_get(self.name, auto_ack=True)
                if method is None or properties is None or body is None:
                    return received
                received.append(Received(properties, body))


def messages(count: int, body: bytes = BODY) -> list[OutgoingMessage]:
    return [OutgoingMessage(uuid4(), body) for _ in range(count)]


def ids(of: Iterable[OutgoingMessage | Received]) -> frozenset[UUID]:
    return frozenset(message.message_id for message in of)


def publish(config: BrokerConfig, sent: Iterable[OutgoingMessage]) -> None:
    with Publisher(config) as publisher:
        publisher.publish(sent)


@contextmanager
def raises(
    kind: BrokerErrorKind, match: str | None = None
) -> Iterator[pytest.ExceptionInfo[BrokerError]]:
    """Expect a `BrokerError` of this kind in the block."""
    with pytest.raises(BrokerError, match=match) as info:
        yield info
    assert info.value.kind is kind


@contextmanager
def in_background(task: Callable[[], T]) -> Iterator[Callable[[], T]]:
    """Run the task in a thread during the block; yield a function that returns its result."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(task).result
