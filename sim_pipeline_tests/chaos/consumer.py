"""The reader of the queue, by a client library that shares nothing with the publisher's."""

import threading
from collections import Counter
from types import TracebackType
from typing import Any, Self

import amqp

_PREFETCH = 200
_LOOK_SECONDS = 0.2


class Consumer:
    """Takes every message out of a queue, in a thread of its own, over broken connections too.

    It drops repeated ids, as every consumer is told to, and counts them.

    Attributes:
        bodies: body of each message_id, as it first came.
        resent: messages that came again without the broker saying that it gave them out before:
            these were published twice.
        changed: message_ids that came again with another body.
    """

    def __init__(self, *, port: int, user: str, password: str, queue: str) -> None:
        self.bodies: dict[str, bytes] = {}
        self.resent: Counter[str] = Counter()
        self.changed: set[str] = set()
        self._queue = queue
        self._login = {
            "host": f"127.0.0.1:{port}",
            "userid": user,
            "password": password,
            "connect_timeout": 5,
        }
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._consume, name=f"consumer-{port}")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _consume(self) -> None:
        while not self._ended.is_set():
            try:
                with amqp.Connection(**self._login) as connection:
                    self._drain(connection)
            # The broker is away, or was while a message was acknowledged, or the queue has not
            # been declared yet.
            except (OSError, amqp.AMQPError):
                self._ended.wait(_LOOK_SECONDS)

    def _drain(self, connection: Any) -> None:
        channel = connection.channel()
        channel.basic_qos(0, _PREFETCH, False)  # noqa: FBT003 - the library's own signature
        channel.basic_consume(self._queue, callback=self._take)
        while not self._ended.is_set():
            try:
                connection.drain_events(timeout=_LOOK_SECONDS)
            except TimeoutError:
                continue

    def _take(self, message: Any) -> None:
        name, body = str(message.properties["message_id"]), message.body
        body = body.encode() if isinstance(body, str) else bytes(body)
        if name not in self.bodies:
            self.bodies[name] = body
        else:
            if body != self.bodies[name]:
                self.changed.add(name)
            if not message.delivery_info["redelivered"]:
                self.resent[name] += 1
        message.channel.basic_ack(message.delivery_tag)
