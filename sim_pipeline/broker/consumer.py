"""Takes the queue's messages and writes each body as one line: `python -m sim_pipeline consume`.

What belongs here: the connection of a reader, the ids it has seen, and the order of things. A
message is acknowledged after its line is written, so what was not written stays in the queue.
"""

import logging
import os
import select
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import SystemRandom
from typing import Final

from pika import BasicProperties
from pika.channel import Channel
from pika.exceptions import ChannelClosedByBroker
from pika.spec import Basic

from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.broker.connection import Session
from sim_pipeline.broker.error_translation import ACCESS_REFUSED, queue_error, words_of
from sim_pipeline.broker.errors import (
    AccessRefusedError,
    BrokerError,
    BrokerUnreachableError,
    ConnectionLostError,
)
from sim_pipeline.broker.pika_logging import quiet_pika

_LOGGER = logging.getLogger(__name__)

_PREFETCH: Final = 5
"""Messages that the broker hands out ahead of their acknowledgement. When this process ends, each
of them counts as delivered once more, and RabbitMQ 4 drops a message at the 21st time. Measured on
loopback: 1,600 messages a second with 1, 4,500 with 5 to 20."""

_MEMORY: Final = 100_000
"""Message ids to remember. A message that comes again does so soon after it came first."""

_LOOK_SECONDS: Final = 0.25
"""How often to look whether to end, or whether the reader of the lines is gone."""

_MAX_PAUSE: Final = 30.0
"""Longest pause between two attempts to connect again, in seconds."""

_LINE_BREAKS: Final = bytes.maketrans(b"\r\n", b"  ")


class OutputError(Exception):
    """The lines cannot be written: the disk is full, or the output is closed."""


class ReaderGoneError(Exception):
    """The program at the other end of the pipe has ended."""


class Interrupted(BaseException):
    """Ends a wait that cannot look at `EndRequest` by itself."""


class EndRequest:
    """Whether this process was told to end. A signal's handler calls `set`.

    It is noted and looked at between two messages, so that a line is written whole and what was
    written is acknowledged. Within `at_once` it ends the wait.
    """

    def __init__(self) -> None:
        self.requested = False
        self._at_once = False

    def set(self) -> None:
        """Note that this process is to end."""
        self.requested = True
        if self._at_once:
            raise Interrupted

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """A block that the request ends.

        Raises:
            Interrupted: from the midst of the block, or at its start.
        """
        self._at_once = True
        try:
            if self.requested:
                raise Interrupted
            yield
        finally:
            self._at_once = False


@dataclass(frozen=True, slots=True)
class _Delivery:
    """A message as it came, and the number to acknowledge it by."""

    tag: int
    message_id: str | None
    body: bytes


class _Subscription(Session):
    """A connection over which the queue's messages come.

    Attributes:
        deliveries: Messages that came and were not dealt with, oldest first.
    """

    def __init__(self, config: BrokerConfig, prefetch: int) -> None:
        """Connect, log in, find or declare the queue, ask for its messages.

        Raises:
            BrokerError: Something of this failed. Nothing is left open.
        """
        self.deliveries: deque[_Delivery] = deque()
        self._consumer_tag = ""
        super().__init__(config)
        try:
            self._request(
                lambda reply: self._channel.basic_qos(prefetch_count=prefetch, callback=reply)
            )
            self._channel.add_on_cancel_callback(self._on_cancel)
            self._request(self._subscribe)
        except ChannelClosedByBroker as error:
            self.abort()
            raise _refusal(config, error) from error
        except BaseException:
            self.abort()
            raise

    def cancel(self) -> None:
        """Have no more messages come; what came can still be acknowledged.

        Raises:
            BrokerError: The connection is lost.
        """
        try:
            self._request(
                lambda reply: self._channel.basic_cancel(self._consumer_tag, callback=reply)
            )
        except ChannelClosedByBroker as error:
            raise ConnectionLostError(_closed(self._config, error)) from error

    def acknowledge(self, delivery: _Delivery) -> None:
        """Tell the broker, in the coming turns, that a message is dealt with."""
        self._channel.basic_ack(delivery.tag)

    def raise_if_ended(self) -> None:
        """Raise when no more messages can come over this connection.

        Raises:
            ConnectionLostError: The connection is lost, the channel closed or the queue deleted.
        """
        if self.refused is not None:
            raise ConnectionLostError(_closed(self._config, self.refused))
        if self.lost is not None:
            raise ConnectionLostError(f"lost the connection to {self._config}: {self.lost}")

    def _subscribe(self, reply: Callable[[object], None]) -> None:
        self._consumer_tag = self._channel.basic_consume(
            self._config.queue, on_message_callback=self._on_message, callback=reply
        )

    def _on_message(
        self, _channel: Channel, method: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> None:
        self.deliveries.append(_Delivery(method.delivery_tag or 0, properties.message_id, body))

    def _on_cancel(self, _frame: object) -> None:
        self.lost = f"queue {self._config.queue!r} was deleted, or its node went down"


class _Output:
    """A file descriptor to write lines to, without waiting for longer than a look takes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        # No event asked for: what is left is that the other end is closed.
        self._poll.register(descriptor, 0)

    def raise_if_gone(self) -> None:
        """Raise ReaderGoneError if nobody can read what would be written."""
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in self._poll.poll(0)):
            raise ReaderGoneError

    def write(self, line: bytes, meanwhile: Callable[[], None]) -> None:
        """Write all of the line; call `meanwhile` each time that the reader keeps it waiting."""
        left = memoryview(line)
        try:
            while left:
                if select.select([], [self._descriptor], [], _LOOK_SECONDS)[1]:
                    left = left[self._write(left[: select.PIPE_BUF]) :]
                else:
                    meanwhile()
        except BrokenPipeError as error:
            raise ReaderGoneError from error
        except OSError as error:
            raise OutputError(f"the output cannot be written: {error.strerror}") from error

    def _write(self, piece: memoryview) -> int:
        try:
            return os.write(self._descriptor, piece)
        except BlockingIOError:  # another program has made the pipe non-blocking
            return 0


class Consumer:
    """Writes each message of a queue as one line, once, and acknowledges it.

    Attributes:
        written: Lines written so far.
    """

    def __init__(
        self, config: BrokerConfig, *, output: int, end: EndRequest, limit: int | None = None
    ) -> None:
        """Connect to nothing yet.

        Args:
            config: Where the queue is. It is declared if it does not exist.
            output: File descriptor to write to.
            end: Ends `run` when it is set.
            limit: How many lines to write; None for no end.
        """
        self.written = 0
        self._config = config
        self._output = _Output(output)
        self._end = end
        self._limit = limit
        self._seen: dict[str, None] = {}  # in the order in which they came
        self._random = SystemRandom()

    def run(self) -> None:
        """Write messages until told to end, or until as many as the limit are written.

        A connection that is lost is replaced, however often that takes.

        Raises:
            BrokerError: The first attempt to connect failed, or a later one for a reason that time
                does not mend.
            ReaderGoneError: The reader of the lines has ended. The message at hand stays in the
                queue.
            OutputError: The lines cannot be written; likewise.
            Interrupted: Told to end while there was no connection.
        """
        with quiet_pika():
            session = self._connect()
            _LOGGER.info("Reading queue %r on %s", self._config.queue, self._config)
            failures = 0
            while True:
                written = self.written
                try:
                    self._read(session)
                except (BrokerUnreachableError, ConnectionLostError) as error:
                    session.abort()
                    if self.written == self._limit:
                        return  # the last one comes again, to whoever reads next
                    failures = 1 if self.written > written else failures + 1
                    session = self._connect_again(error, failures)
                except BaseException:
                    # What was written is acknowledged with the farewell.
                    session.close()
                    raise
                else:
                    session.close()
                    return

    def _connect(self) -> _Subscription:
        # One at a time under a limit: what is left over was never handed out.
        with self._end.at_once():
            return _Subscription(self._config, 1 if self._limit else _PREFETCH)

    def _connect_again(self, error: BrokerError, failures: int) -> _Subscription:
        while True:
            longest = min(self._config.backoff * 2 ** min(failures - 1, 16), _MAX_PAUSE)
            pause = longest * self._random.uniform(0.5, 1.0)
            _LOGGER.warning("%s; next attempt in %.1f s", error, pause)
            # The back-off itself: a broker that is away cannot tell when it is back.
            with self._end.at_once():
                time.sleep(pause)
            self._output.raise_if_gone()
            try:
                return self._connect()
            except BrokerError as next_error:
                if not next_error.retryable:
                    raise
                error = next_error
                failures += 1

    def _read(self, session: _Subscription) -> None:
        """Write what comes over one connection.

        Raises:
            ConnectionLostError: Another connection is needed.
        """
        while not self._end.requested:
            while session.deliveries and not self._end.requested:
                self._deal_with(session, session.deliveries.popleft())
                if self.written == self._limit:
                    return
            session.turn(0.0 if session.deliveries else _LOOK_SECONDS)
            session.raise_if_ended()
            self._output.raise_if_gone()

    def _deal_with(self, session: _Subscription, delivery: _Delivery) -> None:
        known = delivery.message_id is not None and delivery.message_id in self._seen
        if not known:
            self._write(session, delivery.body)
            self._remember(delivery.message_id)
        session.raise_if_ended()
        if self.written == self._limit:
            session.cancel()
        session.acknowledge(delivery)

    def _write(self, session: _Subscription, body: bytes) -> None:
        def meanwhile() -> None:
            if self._end.requested:
                raise Interrupted
            # A reader that takes its time must not cost the connection.
            if not session.ended:
                session.turn(0.0)

        # JSON holds line breaks between its tokens only, where a blank means the same.
        self._output.write(body.translate(_LINE_BREAKS) + b"\n", meanwhile)
        self.written += 1

    def _remember(self, message_id: str | None) -> None:
        if message_id is None:
            return
        self._seen[message_id] = None
        if len(self._seen) > _MEMORY:
            del self._seen[next(iter(self._seen))]


def _closed(config: BrokerConfig, error: ChannelClosedByBroker) -> str:
    return f"{config} closed the channel: {words_of(error)}"


def _refusal(config: BrokerConfig, error: ChannelClosedByBroker) -> BrokerError:
    """Return why the broker gives out no messages."""
    if error.reply_code == ACCESS_REFUSED:
        return AccessRefusedError(
            f"user {config.user!r} may not read queue {config.queue!r} on {config}:"
            f" {words_of(error)}; permit it to read the queue, or end the consumer that has the"
            " queue to itself"
        )
    return queue_error(config, error)
