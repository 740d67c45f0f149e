"""One connection to RabbitMQ: opened, the queue seen to, in confirm mode, until it closes.

This is all of pika that the publisher sees. pika's event loop runs in the calling thread, and only
while a method of `Session` does. Its callbacks do nothing but note what happened: pika takes an
exception in a callback for the loss of the connection.
"""

import ssl
from collections.abc import Callable, Iterator
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
    connect_error,
    is_down,
    queue_error,
    words_of,
)
from sim_pipeline.broker.errors import BrokerUnreachableError, TlsError
from sim_pipeline.broker.message import APP_ID, MESSAGE_TYPE, OutgoingMessage

_PERSISTENT: Final = 2
"""AMQP's delivery mode of a message that survives a restart of the broker."""

_PIECE_BYTES: Final = 64 * 1024
"""Size of the pieces to write in: beyond it nothing is gained, and the rest of a piece that the
socket takes in part is copied."""

_ABORT_TIMEOUT: Final = 1.0
"""Seconds for pika to let go of a socket: a turn or two of its loop, and no peer involved."""


@dataclass(slots=True)
class Outcomes:
    """What the broker said about messages in one turn.

    Attributes:
        confirmed: Safe: the broker is responsible for them.
        returned: Not in any queue, with the broker's words.
        nacked: Not taken by the queue.
    """

    confirmed: list[OutgoingMessage] = field(default_factory=list)
    returned: list[tuple[OutgoingMessage, str]] = field(default_factory=list)
    nacked: list[OutgoingMessage] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.confirmed or self.returned or self.nacked)


class _Connection(SelectConnection):
    """A connection that can be cut in whatever state it is, and can write in large pieces."""

    _gathered: bytearray | None = None

    def abort(self) -> None:
        """Drop the socket without a farewell."""
        # pika itself cuts a connection this way when heartbeats stay away. Its public close() waits
        # for a peer that may be gone, and while logging in trips over an assertion of pika's own.
        self._terminate_stream(ConnectionAbortedError("cut by this side"))  # type: ignore[attr-defined]

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Write what is sent within the block in large pieces.

        pika gives each frame to the socket by itself, which takes three system calls, and packets,
        a message. In large pieces publishing took half the processor time, and the broker half as
        many messages again.
        """
        self._gathered = bytearray()
        try:
            yield
            self._write_gathered()
        finally:
            self._gathered = None

    def _adapter_emit_data(self, data: bytes) -> None:
        if self._gathered is None:
            super()._adapter_emit_data(data)  # type: ignore[misc]
            return
        self._gathered += data
        if len(self._gathered) >= _PIECE_BYTES:
            self._write_gathered()

    def _write_gathered(self) -> None:
        if self._gathered:
            super()._adapter_emit_data(bytes(self._gathered))  # type: ignore[misc]
            self._gathered.clear()


class Session:
    """A connection with one channel, on which messages are sent and confirmed.

    Attributes:
        unconfirmed: Messages sent and not settled, by delivery tag, oldest first.
        unconfirmed_bytes: Length of their bodies together.
        blocked: Why the broker takes no messages at the moment; None if it does.
        lost: Why there is no connection any more; None if there is.
        refused: Why the broker closed the channel; None if it did not.
    """

    def __init__(self, config: BrokerConfig) -> None:
        """Connect, log in, find or declare the queue, ask for confirms.

        Raises:
            BrokerError: Something of this failed. Nothing is left open.
        """
        self.unconfirmed: dict[int, OutgoingMessage] = {}
        self.unconfirmed_bytes = 0
        self.blocked: str | None = None
        self.lost: str | None = None
        self.refused: ChannelClosedByBroker | None = None

        self._config = config
        self._tag = 0
        self._settled = Outcomes()
        self._returned: dict[str, str] = {}
        self._connect_error: BaseException | None = None
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
        """Whether it can be used no more."""
        return self.lost is not None or self.refused is not None

    def send(self, message: OutgoingMessage) -> None:
        """Hand a message to pika, which writes it out in the coming turns."""
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
        """A block in which many messages are sent; cheaper than one by one."""
        return self._connection.gathering()

    def turn(self, timeout: float) -> Outcomes:
        """Write and read what can be written and read now, or wait for it up to `timeout` seconds.

        What happened to the connection or the channel is in the attributes afterwards, along with
        the settled messages and never instead of them.
        """
        self._settled = settled = Outcomes()
        timer = self._loop.call_later(max(timeout, 0.0), _nothing)
        self._loop.poll()
        self._loop.process_timeouts()
        self._loop.remove_timeout(timer)
        return settled

    def close(self) -> None:
        """Say farewell to the broker, for as long as `close_timeout`; then cut."""
        if self._connection.is_open:
            self._connection.close()
            self._wait(lambda: self._connection.is_closed, self._config.close_timeout)
        self.abort()

    def abort(self) -> None:
        """Cut the connection, at any moment and however often. Frees the socket."""
        if self._released:
            return
        self._released = True
        # An interrupt can come in the middle of pika's work; what pika then finds wrong with
        # itself must not hide the interrupt.
        with suppress(Exception):
            if not self._connection.is_closed:
                self._connection.abort()
                self._wait(lambda: self._connection.is_closed, _ABORT_TIMEOUT)
        self._loop.close()

    def _await_connection(self) -> None:
        timeout = self._config.connect_timeout
        self._wait(
            # It can open and be lost again in one turn.
            lambda: bool(self._connection.is_open or self._connect_error or self.lost),
            timeout,
        )
        if self._connect_error is not None:
            raise connect_error(self._config, self._connect_error) from self._connect_error
        if self.lost is not None:
            raise BrokerUnreachableError(f"lost the connection to {self._config}: {self.lost}")
        if not self._connection.is_open:
            raise BrokerUnreachableError(f"no connection to {self._config} within {timeout:g} s")
        self._connection.add_on_connection_blocked_callback(self._on_blocked)
        self._connection.add_on_connection_unblocked_callback(self._on_unblocked)

    def _open_channel_to_queue(self) -> Channel:
        """A channel, once the queue is known to exist.

        The broker answers a refusal by closing the channel, so each question has one of its own.
        """
        try:
            return self._declare(passive=True)
        except ChannelClosedByBroker as error:
            if error.reply_code != NOT_FOUND or is_down(error):
                raise queue_error(self._config, error) from error
        try:
            return self._declare(passive=False)
        except ChannelClosedByBroker as error:
            if error.reply_code == PRECONDITION_FAILED:
                # Perhaps somebody else has declared it in the meantime, in another way.
                with suppress(ChannelClosedByBroker):
                    return self._declare(passive=True)
            raise queue_error(self._config, error) from error

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
                arguments={"x-queue-type": "quorum"},
                callback=reply,
            )
        )
        return channel

    def _request(self, send: Callable[[Callable[[object], None]], object]) -> None:
        """Send one request and wait for the reply to it.

        Raises:
            ChannelClosedByBroker: That was the reply.
            BrokerUnreachableError: There was none.
        """
        replies: list[object] = []
        send(replies.append)
        self._wait(lambda: bool(replies) or self.ended, self._config.stack_timeout)
        if self.refused is not None:
            refused, self.refused = self.refused, None
            raise refused
        if self.lost is not None:
            raise BrokerUnreachableError(f"lost the connection to {self._config}: {self.lost}")
        if not replies:
            raise BrokerUnreachableError(
                f"no reply from {self._config} within {self._config.stack_timeout:g} s"
            )

    def _wait(self, done: Callable[[], bool], timeout: float) -> None:
        """Turn until done, or until the time is over: the caller sees which."""
        deadline = monotonic() + timeout
        while not done() and (remaining := deadline - monotonic()) > 0:
            self.turn(remaining)

    def _on_open_error(self, _connection: Connection, error: BaseException) -> None:
        self._connect_error = error

    def _on_close(self, _connection: Connection, error: BaseException) -> None:
        self.lost = words_of(error)

    def _on_channel_close(self, _channel: Channel, error: Exception) -> None:
        # A channel also ends with its connection, which is noted there.
        if isinstance(error, ChannelClosedByBroker):
            self.refused = error

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
        # The broker returns a message and then acknowledges it, having dealt with it: without this
        # note the acknowledgement would pass for a confirm.
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
            words = self._returned.pop(str(message.message_id), None) if self._returned else None
            if isinstance(frame.method, Basic.Nack):
                self._settled.nacked.append(message)
            elif words is not None:
                self._settled.returned.append((message, words))
            else:
                self._settled.confirmed.append(message)


def _nothing() -> None:
    """What a timer does that is there to end a wait."""


def _parameters(config: BrokerConfig) -> ConnectionParameters:
    """The configuration in pika's terms.

    Raises:
        TlsError: The CA file cannot be read.
    """
    return ConnectionParameters(
        host=config.host,
        port=config.port,
        virtual_host=config.vhost,
        credentials=PlainCredentials(config.user, config.password),
        heartbeat=config.heartbeat,
        socket_timeout=config.socket_timeout,
        stack_timeout=config.stack_timeout,
        # Attempts are repeated by the publisher, which knows what repeating is good for, and being
        # blocked is timed there, where the confirmed messages are known.
        connection_attempts=1,
        blocked_connection_timeout=None,
        ssl_options=SSLOptions(_tls_context(config), config.host) if config.tls else None,
        client_properties={"connection_name": APP_ID},
    )


def _tls_context(config: BrokerConfig) -> ssl.SSLContext:
    """Verifies the certificate and the host name."""
    try:
        return ssl.create_default_context(cafile=config.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise TlsError(
            f"the CA file {config.ca_file} cannot be used: {error.strerror or error}; it must be a "
            "readable PEM file of certificates"
        ) from error
