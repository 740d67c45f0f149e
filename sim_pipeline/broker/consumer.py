"""`Consumer`: reads the queue and writes each message as one line. Used by the command `consume`.

A message is acknowledged after its line is written, so a message that was not written stays in the
queue. Duplicates are recognised by their message id and dropped.
"""

import logging
import os
import select
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from pika import BasicProperties
from pika.channel import Channel
from pika.exceptions import ChannelClosedByBroker
from pika.spec import Basic

from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.broker.connection import Session
from sim_pipeline.broker.error_translation import error_text, translate_consume_error
from sim_pipeline.broker.errors import BrokerError, BrokerErrorKind
from sim_pipeline.broker.pika_logging import quiet_pika
from sim_pipeline.broker.reconnect import ReconnectDelays

_LOGGER = logging.getLogger(__name__)

_PREFETCH: Final = 5
"""Messages that the broker sends ahead of their acknowledgement. If this process dies, each of them
counts as one more delivery. RabbitMQ 4 drops a message at its 21st if the queue exists with that
limit. Measured on loopback: 1,600 messages per second with 1, 4,500 with 5 to 20."""

_MAX_SEEN_IDS: Final = 100_000
"""Message ids to remember. A duplicate follows soon after the first copy."""

_POLL_SECONDS: Final = 0.25
"""Interval of the checks for a request to end and for a closed output."""

_MAX_PAUSE: Final = 30.0
"""Longest pause between two attempts to reconnect, in seconds."""

_LINE_BREAKS: Final = bytes.maketrans(b"\r\n", b"  ")


class OutputError(Exception):
    """The output cannot be written, for example because the disk is full."""


class ReaderGoneError(Exception):
    """The program that reads the output has exited."""


class Interrupted(BaseException):
    """Ends a wait that cannot check `EndRequest`."""


class EndRequest:
    """A request to end this process. A signal handler calls `set`.

    The consumer checks it between two messages, so that every line is complete and acknowledged. A
    block in `interruptible` ends immediately.
    """

    def __init__(self) -> None:
        self.requested = False
        self._interruptible = False

    def set(self) -> None:
        """Request the end.

        Raises:
            Interrupted: If the process is in an `interruptible` block.
        """
        self.requested = True
        if self._interruptible:
            raise Interrupted

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Return a context manager for a block that the request interrupts.

        Raises:
            Interrupted: In the block, or before it if the end was requested already.
        """
        self._interruptible = True
        try:
            if self.requested:
                raise Interrupted
            yield
        finally:
            self._interruptible = False


@dataclass(frozen=True, slots=True)
class _Delivery:
    """A received message, with its delivery tag."""

    tag: int
    message_id: str | None
    body: bytes


class _Subscription(Session):
    """A connection that receives the messages of the queue.

    Attributes:
        deliveries: Messages received and not yet processed, oldest first.
    """

    def __init__(self, config: BrokerConfig, prefetch: int) -> None:
        """Connect, log in, find or declare the queue, subscribe to it.

        Raises:
            BrokerError: One of these steps failed. Nothing is left open.
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
            raise translate_consume_error(config, error) from error
        except BaseException:
            self.abort()
            raise

    def cancel(self) -> None:
        """Unsubscribe. Messages already received can still be acknowledged.

        Raises:
            BrokerError: The connection is lost.
        """
        try:
            self._request(
                lambda reply: self._channel.basic_cancel(self._consumer_tag, callback=reply)
            )
        except ChannelClosedByBroker as error:
            raise self._lost(error) from error

    def acknowledge(self, delivery: _Delivery) -> None:
        """Queue an acknowledgement; later calls of `process_events` write it."""
        self._channel.basic_ack(delivery.tag)

    def raise_if_ended(self) -> None:
        """Raise if this connection can receive no more messages.

        Raises:
            BrokerError: The connection is lost, the channel closed or the queue deleted.
        """
        if self.ended:
            raise self._lost(self.channel_error)

    def _lost(self, channel_error: ChannelClosedByBroker | None) -> BrokerError:
        return BrokerError(
            BrokerErrorKind.CONNECTION_LOST,
            f"lost the connection to {self._config}: {self.connection_error}"
            if channel_error is None
            else f"{self._config} closed the channel: {error_text(channel_error)}",
        )

    def _subscribe(self, reply: Callable[[object], None]) -> None:
        self._consumer_tag = self._channel.basic_consume(
            self._config.queue, on_message_callback=self._on_message, callback=reply
        )

    def _on_message(
        self, _channel: Channel, method: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> None:
        self.deliveries.append(_Delivery(method.delivery_tag or 0, properties.message_id, body))

    def _on_cancel(self, _frame: object) -> None:
        self.connection_error = f"queue {self._config.queue!r} was deleted, or its node went down"


class _Output:
    """Writes lines to a file descriptor, never blocking longer than `_POLL_SECONDS`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        # Without requested events, poll reports only errors and a closed other end.
        self._poll.register(descriptor, 0)

    def raise_if_gone(self) -> None:
        """Raise if the other end of a pipe is closed.

        Raises:
            ReaderGoneError: It is closed.
        """
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in self._poll.poll(0)):
            raise ReaderGoneError

    def write(self, line: bytes, meanwhile: Callable[[], None]) -> None:
        """Write the whole line.

        Args:
            line: Bytes to write.
            meanwhile: Called every `_POLL_SECONDS` while the reader is not ready.

        Raises:
            ReaderGoneError: The reader closed its end.
            OutputError: The write failed for another reason.
        """
        left = memoryview(line)
        try:
            while left:
                if select.select([], [self._descriptor], [], _POLL_SECONDS)[1]:
                    left = left[self._write(left[: select.PIPE_BUF]) :]
                else:
                    meanwhile()
        except BrokenPipeError as error:
            raise ReaderGoneError from error
        except OSError as error:
            raise OutputError(f"cannot write to the output: {error.strerror}") from error

    def _write(self, piece: memoryview) -> int:
        try:
            return os.write(self._descriptor, piece)
        except BlockingIOError:  # another program made the pipe non-blocking
            return 0


class Consumer:
    """Writes each message of a queue as one line, once, and acknowledges it.

    Attributes:
        written: Lines written so far.
    """

    def __init__(
        self, config: BrokerConfig, *, output: int, end: EndRequest, limit: int | None = None
    ) -> None:
        """Prepare the consumer; `run` connects.

        Args:
            config: The connection and the queue. A missing queue is declared.
            output: File descriptor to write to.
            end: Ends `run` when it is set.
            limit: Number of lines to write; None for no limit.
        """
        self.written = 0
        self._config = config
        self._output = _Output(output)
        self._end = end
        self._limit = limit
        self._seen: dict[str, None] = {}  # ids, oldest first
        self._delays = ReconnectDelays(config.backoff, _MAX_PAUSE)

    def run(self) -> None:
        """Write messages until the end is requested or the limit is reached.

        After a lost connection it reconnects, as often as necessary.

        Raises:
            BrokerError: The first attempt to connect failed, or a later one failed with an error
                that is not retryable.
            ReaderGoneError: The reader has exited. The current message stays in the queue.
            OutputError: The output cannot be written. The current message stays in the queue.
            Interrupted: The end was requested while there was no connection.
        """
        with quiet_pika():
            session = self._connect()
            _LOGGER.info("Reading queue %r on %s", self._config.queue, self._config)
            failures = 0
            while True:
                written = self.written
                try:
                    self._read(session)
                except BrokerError as error:
                    session.abort()
                    if self.written == self._limit:
                        return  # the broker delivers the last message again, to the next consumer
                    failures = 1 if self.written > written else failures + 1
                    session = self._connect_again(error, failures)
                except BaseException:
                    # A clean close sends the acknowledgements of the messages written.
                    session.close()
                    raise
                else:
                    session.close()
                    return

    def _connect(self) -> _Subscription:
        # With a limit, fetch one at a time, so that no message beyond it counts as delivered.
        with self._end.interruptible():
            return _Subscription(self._config, 1 if self._limit else _PREFETCH)

    def _connect_again(self, error: BrokerError, failures: int) -> _Subscription:
        while True:
            pause = self._delays.after(failures)
            _LOGGER.warning("%s; next attempt in %.1f s", error, pause)
            with self._end.interruptible():
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
        """Write the messages of one connection.

        Raises:
            BrokerError: The connection was lost.
        """
        while not self._end.requested:
            while session.deliveries and not self._end.requested:
                self._process(session, session.deliveries.popleft())
                if self.written == self._limit:
                    return
            session.process_events(0.0 if session.deliveries else _POLL_SECONDS)
            session.raise_if_ended()
            self._output.raise_if_gone()

    def _process(self, session: _Subscription, delivery: _Delivery) -> None:
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
            # Keep the connection alive while the reader is slow.
            if not session.ended:
                session.process_events(0.0)

        # In JSON, line breaks occur only between tokens, where a space means the same.
        self._output.write(body.translate(_LINE_BREAKS) + b"\n", meanwhile)
        self.written += 1

    def _remember(self, message_id: str | None) -> None:
        if message_id is None:
            return
        self._seen[message_id] = None
        if len(self._seen) > _MAX_SEEN_IDS:
            del self._seen[next(iter(self._seen))]
