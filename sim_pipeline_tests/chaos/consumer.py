"""A consumer of the queue, on another client library than the publisher's."""

import threading
from collections import Counter
from types import TracebackType
from typing import Any, Self

import amqp

_PREFETCH = 200
_POLL_SECONDS = 0.2


class Consumer:
    """Consumes a queue in its own thread, and reconnects when the connection breaks.

    It drops repeated message ids, as the documentation tells every consumer to do, and counts them.

    Attributes:
        bodies: the first body received for each message_id.
        resent: repeated messages without the broker's `redelivered` flag, counted by message_id.
            These were published twice.
        changed: message_ids that were received again with a different body.
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
            # The broker is down, the connection broke during an acknowledgement, or the queue is
            # not declared yet.
            except (OSError, amqp.AMQPError):
                self._ended.wait(_POLL_SECONDS)

    def _drain(self, connection: Any) -> None:
        channel = connection.channel()
        channel.basic_qos(0, _PREFETCH, False)  # noqa: FBT003 - the library's own signature
        channel.basic_consume(self._queue, callback=self._receive)
        while not self._ended.is_set():
            try:
                connection.drain_events(timeout=_POLL_SECONDS)
            except TimeoutError:
                continue

    def _receive(self, message: Any) -> None:
        message_id, body = str(message.properties["message_id"]), message.body
        body = body.encode() if isinstance(body, str) else bytes(body)
        if message_id not in self.bodies:
            self.bodies[message_id] = body
        else:
            if body != self.bodies[message_id]:
                self.changed.add(message_id)
            if not message.delivery_info["redelivered"]:
                self.resent[message_id] += 1
        message.channel.basic_ack(message.delivery_tag)
