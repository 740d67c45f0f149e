"""`Session`: one connection to RabbitMQ with one channel in confirm mode.

The publisher and the consumer use pika only through this module; retries are theirs. pika's event
loop runs in the calling thread, and only during a method of `Session`. The callbacks only record
what happened, because pika treats an exception in a callback as a lost connection.
"""

import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import takewhile
from time import monotonic
from typing import Final

from pika import BasicProperties, ConnectionParameters, PlainCredentials, SSLOptions
from pika.adapters.select_connection import IOLoop, SelectConnection
from pika.channel import Channel
from pika.connection import Connection
from pika.exceptions import ChannelClosedByBroker
from pika.frame import Method
from pika.spec import Basic
from pika.spec import Connection as ConnectionMethods

from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.broker.error_translation import (
    NOT_FOUND,
    PRECONDITION_FAILED,
    error_text,
    is_down,
    translate_connect_error,
    translate_queue_error,
)
from sim_pipeline.broker.errors import BrokerError, BrokerErrorKind
from sim_pipeline.broker.message import APP_ID, MESSAGE_TYPE, OutgoingMessage

_PERSISTENT: Final = 2
"""AMQP delivery mode of a message that survives a broker restart."""

LIMITS_DELIVERIES: Final = 4
"""First major version of RabbitMQ whose quorum queues limit the deliveries of a message."""

_WRITE_BYTES: Final = 64 * 1024
"""Size of one buffered write. Larger writes are not faster, and pika copies the rest of a write
that the socket accepts in part."""

_ABORT_TIMEOUT: Final = 1.0
"""Seconds for pika to release a socket. It takes one or two iterations of its loop and no peer."""


@dataclass(slots=True)
class Outcomes:
    """The broker's replies about messages in one call of `Session.process_events`.

    Attributes:
        confirmed: The broker is responsible for these.
        returned: In no queue, with the broker's text.
        nacked: Rejected by the queue.
    """

    confirmed: list[OutgoingMessage] = field(default_factory=list)
    returned: list[tuple[OutgoingMessage, str]] = field(default_factory=list)
    nacked: list[OutgoingMessage] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.confirmed or self.returned or self.nacked)


class _Connection(SelectConnection):
    """A connection that can be dropped in any state and can buffer its writes."""

    _buffer: bytearray | None = None

    def abort(self) -> None:
        """Drop the socket without closing the connection at the broker."""
        # pika itself does this when heartbeats are missing. Its public close() waits for a peer
        # that may be gone, and fails an assertion in pika while a login is under way.
        self._terminate_stream(ConnectionAbortedError("dropped by this side"))  # type: ignore[attr-defined]

    @contextmanager
    def buffering(self) -> Iterator[None]:
        """Combine the frames sent within the block into large writes.

        pika writes each frame separately: three system calls and packets per message. With large
        writes publishing took half the CPU time, and the broker accepted 50 % more messages per
        second.
        """
        self._buffer = bytearray()
        try:
            yield
            self._flush()
        finally:
            self._buffer = None

    def _adapter_emit_data(self, data: bytes) -> None:
        if self._buffer is None:
            super()._adapter_emit_data(data)  # type: ignore[misc]
            return
        self._buffer += data
        if len(self._buffer) >= _WRITE_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._buffer:
            super()._adapter_emit_data(bytes(self._buffer))  # type: ignore[misc]
            self._buffer.clear()


class Session:
    """A connection with one channel, on which messages are sent and confirmed.

    Attributes:
        unconfirmed: Messages sent and not yet confirmed, returned or nacked, by delivery tag,
            oldest first.
        unconfirmed_bytes: Total length of their bodies.
        blocked: Why the broker accepts no messages at the moment; None if it does.
        connection_error: Why the connection ended; None while it is open.
        channel_error: Why the broker closed the channel; None while it is open.
    """

    def __init__(self, config: BrokerConfig) -> None:
        """Connect, log in, find or declare the queue, enable confirms.

        Raises:
            BrokerError: One of these steps failed. Nothing is left open.
        """
        self.unconfirmed: dict[int, OutgoingMessage] = {}
        self.unconfirmed_bytes = 0
        self.blocked: str | None = None
        self.connection_error: str | None = None
        self.channel_error: ChannelClosedByBroker | None = None

        self._config = config
        self._tag = 0
        self._outcomes = Outcomes()
        self._returned: dict[str, str] = {}
        self._open_error: BaseException | None = None
        self._released = False

        parameters = _parameters(config)
        self._loop = IOLoop()
        self._loop.activate_poller()
        self._connection = _Connection(
            parameters,
            on_open_error_callback=self._on_open_error,
            on_close_callback=self._on_close,
            custom_ioloop=self._loop,
        )
        try:
            self._await_connection()
            self._channel = self._open_channel_to_queue()
            self._request(
                lambda reply: self._channel.confirm_delivery(self._on_ack_nack, callback=reply)
            )
            self._channel.add_on_return_callback(self._on_return)
        except BaseException:
            self.abort()
            raise

    @property
    def ended(self) -> bool:
        """Whether the connection or the channel has ended."""
        return self.connection_error is not None or self.channel_error is not None

    def send(self, message: OutgoingMessage) -> None:
        """Queue a message; later calls of `process_events` write it to the socket."""
        self._channel.basic_publish(
            exchange="",
            routing_key=self._config.queue,
            body=message.body,
            properties=BasicProperties(
                content_type="application/json",
                delivery_mode=_PERSISTENT,
                message_id=str(message.message_id),
                type=MESSAGE_TYPE,
                app_id=APP_ID,
            ),
            mandatory=True,
        )
        self._tag += 1
        self.unconfirmed[self._tag] = message
        self.unconfirmed_bytes += len(message.body)

    def sending(self) -> AbstractContextManager[None]:
        """Return a context manager for sending many messages with few writes."""
        return self._connection.buffering()

    def process_events(self, timeout: float) -> Outcomes:
        """Do pending I/O and callbacks; wait up to `timeout` seconds if nothing is pending.

        The end of the connection or the channel is in the attributes afterwards. The outcomes that
        arrived before it are returned all the same.
        """
        self._outcomes = outcomes = Outcomes()
        timer = self._loop.call_later(max(timeout, 0.0), _do_nothing)
        self._loop.poll()
        self._loop.process_timeouts()
        self._loop.remove_timeout(timer)
        return outcomes

    def close(self) -> None:
        """Close the connection cleanly within `close_timeout`; else drop it."""
        if self._connection.is_open:
            self._connection.close()
            self._wait(lambda: self._connection.is_closed, self._config.close_timeout)
        self.abort()

    def abort(self) -> None:
        """Drop the connection and free the socket. Can be called at any time, repeatedly."""
        if self._released:
            return
        self._released = True
        # An interrupt can leave pika in an inconsistent state. The error that pika then raises must
        # not hide the interrupt.
        with suppress(Exception):
            if not self._connection.is_closed:
                self._connection.abort()
                self._wait(lambda: self._connection.is_closed, _ABORT_TIMEOUT)
        self._loop.close()

    def _await_connection(self) -> None:
        timeout = self._config.connect_timeout
        self._wait(
            # The connection can open and end in the same iteration.
            lambda: bool(self._connection.is_open or self._open_error or self.connection_error),
            timeout,
        )
        if self._open_error is not None:
            raise translate_connect_error(self._config, self._open_error) from self._open_error
        self._raise_if_lost()
        if not self._connection.is_open:
            raise self._unreachable(f"no connection to {self._config} within {timeout:g} s")
        self._connection.add_on_connection_blocked_callback(self._on_blocked)
        self._connection.add_on_connection_unblocked_callback(self._on_unblocked)

    def _open_channel_to_queue(self) -> Channel:
        """Find or declare the queue; return the channel that did it.

        The broker closes the channel when it refuses a declaration, so each one needs its own.
        """
        try:
            return self._declare(passive=True)
        except ChannelClosedByBroker as error:
            if error.reply_code != NOT_FOUND or is_down(error):
                raise translate_queue_error(self._config, error) from error
        try:
            return self._declare(passive=False)
        except ChannelClosedByBroker as error:
            if error.reply_code == PRECONDITION_FAILED:
                # Another client may have declared the queue in the meantime, with other arguments.
                with suppress(ChannelClosedByBroker):
                    return self._declare(passive=True)
            raise translate_queue_error(self._config, error) from error

    def _declare(self, *, passive: bool) -> Channel:
        channels: list[Channel] = []
        self._request(
            lambda reply: channels.append(self._connection.channel(on_open_callback=reply))
        )
        channel = channels[0]
        channel.add_on_close_callback(self._on_channel_close)
        self._request(
            lambda reply: channel.queue_declare(
                self._config.queue,
                passive=passive,
                durable=True,
                arguments=_queue_arguments(self._connection.server_properties or {}),
                callback=reply,
            )
        )
        return channel

    def _request(self, send: Callable[[Callable[[object], None]], object]) -> None:
        """Send one request and wait for its reply.

        Raises:
            ChannelClosedByBroker: The broker refused the request.
            BrokerError: The connection was lost, or no reply came in time.
        """
        replies: list[object] = []
        send(replies.append)
        self._wait(lambda: bool(replies) or self.ended, self._config.stack_timeout)
        if self.channel_error is not None:
            error, self.channel_error = self.channel_error, None
            raise error
        self._raise_if_lost()
        if not replies:
            raise self._unreachable(
                f"no reply from {self._config} within {self._config.stack_timeout:g} s"
            )

    def _wait(self, done: Callable[[], bool], timeout: float) -> None:
        """Process events until `done` is true or the time is over; the caller checks which."""
        deadline = monotonic() + timeout
        while not done() and (remaining := deadline - monotonic()) > 0:
            self.process_events(remaining)

    def _raise_if_lost(self) -> None:
        if self.connection_error is not None:
            raise self._unreachable(
                f"lost the connection to {self._config}: {self.connection_error}"
            )

    def _unreachable(self, message: str) -> BrokerError:
        return BrokerError(BrokerErrorKind.UNREACHABLE, message)

    def _on_open_error(self, _connection: Connection, error: BaseException) -> None:
        self._open_error = error

    def _on_close(self, _connection: Connection, error: BaseException) -> None:
        self.connection_error = error_text(error)

    def _on_channel_close(self, _channel: Channel, error: Exception) -> None:
        # A channel also ends with its connection; `_on_close` records that.
        if isinstance(error, ChannelClosedByBroker):
            self.channel_error = error

    def _on_blocked(
        self, _connection: Connection, frame: Method[ConnectionMethods.Blocked]
    ) -> None:
        self.blocked = str(frame.method.reason)

    def _on_unblocked(
        self, _connection: Connection, _frame: Method[ConnectionMethods.Unblocked]
    ) -> None:
        self.blocked = None

    def _on_return(
        self, _channel: Channel, method: Basic.Return, properties: BasicProperties, _body: bytes
    ) -> None:
        # The broker returns a message and then acks it. Without this record the ack would count as
        # a confirm.
        self._returned[str(properties.message_id)] = str(method.reply_text)

    def _on_ack_nack(self, frame: Method[Basic.Ack | Basic.Nack]) -> None:
        last: int = frame.method.delivery_tag
        tags = (
            list(takewhile(lambda tag: tag <= last, self.unconfirmed))
            if frame.method.multiple
            else [last]
        )
        for tag in tags:
            message = self.unconfirmed.pop(tag)
            self.unconfirmed_bytes -= len(message.body)
            reply_text = (
                self._returned.pop(str(message.message_id), None) if self._returned else None
            )
            if isinstance(frame.method, Basic.Nack):
                self._outcomes.nacked.append(message)
            elif reply_text is not None:
                self._outcomes.returned.append((message, reply_text))
            else:
                self._outcomes.confirmed.append(message)


def _do_nothing() -> None:
    """Do nothing: the callback of a timer that only ends a wait."""


def _queue_arguments(server: Mapping[str, object]) -> dict[str, object]:
    """Return the arguments of a new queue: a quorum queue without a limit of deliveries.

    From version 4 on, RabbitMQ drops a message at its 21st delivery unless the limit is -1. Before,
    it has no limit by default, and drops every message at a limit of -1.

    Args:
        server: The properties that the broker sent when the connection opened.
    """
    product, major = server.get("product"), str(server.get("version")).partition(".")[0]
    has_limit = product == "RabbitMQ" and major.isdecimal() and int(major) >= LIMITS_DELIVERIES
    return {"x-queue-type": "quorum", **({"x-delivery-limit": -1} if has_limit else {})}


def _parameters(config: BrokerConfig) -> ConnectionParameters:
    """Return pika's form of the configuration.

    Raises:
        BrokerError: The CA file cannot be read.
    """
    return ConnectionParameters(
        host=config.host,
        port=config.port,
        virtual_host=config.vhost,
        credentials=PlainCredentials(config.user, config.password),
        heartbeat=config.heartbeat,
        socket_timeout=config.socket_timeout,
        stack_timeout=config.stack_timeout,
        # The publisher retries, because it knows which errors a retry can fix. It also times a
        # blocked broker, because it knows which messages are confirmed.
        connection_attempts=1,
        blocked_connection_timeout=None,
        ssl_options=SSLOptions(_tls_context(config), config.host) if config.tls else None,
        client_properties={"connection_name": APP_ID},
    )


def _tls_context(config: BrokerConfig) -> ssl.SSLContext:
    """Return a TLS context that verifies the certificate and the host name."""
    try:
        return ssl.create_default_context(cafile=config.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise BrokerError(
            BrokerErrorKind.TLS,
            f"the CA file {config.ca_file} cannot be used: {error.strerror or error}; it must be a "
            "readable PEM file of certificates",
        ) from error
