"""`Publisher`: sends messages and waits until the broker has confirmed each of them.

Retries after a lost connection are here. `connection.py` has the connection itself.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from types import TracebackType
from typing import Self
from uuid import UUID

from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.broker.connection import Outcomes, Session
from sim_pipeline.broker.error_translation import size_limit, translate_publish_error
from sim_pipeline.broker.errors import BrokerError, BrokerErrorKind
from sim_pipeline.broker.message import OutgoingMessage
from sim_pipeline.broker.pika_logging import quiet_pika
from sim_pipeline.broker.reconnect import ReconnectDelays

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PublishReport:
    """A `publish` call that succeeded.

    Attributes:
        confirmed: Ids of all its messages.
        resent: Number of messages sent again after a lost connection. At most that many are in the
            queue twice, under the same id.
    """

    confirmed: frozenset[UUID]
    resent: int


@dataclass(slots=True)
class _PublishState:
    """The messages of one `publish` call, by what has happened to them so far."""

    source: Iterator[OutgoingMessage]
    # Sent before the rest of the source. Lost connections leave their unconfirmed messages here.
    backlog: deque[OutgoingMessage] = field(default_factory=deque)
    resent: int = 0
    confirmed: set[UUID] = field(default_factory=set)
    returned: list[tuple[OutgoingMessage, str]] = field(default_factory=list)
    nacked: list[OutgoingMessage] = field(default_factory=list)
    too_large: list[OutgoingMessage] = field(default_factory=list)

    def has_more(self) -> bool:
        """Return whether a message is left to send; if so, it is the first of the backlog."""
        if not self.backlog:
            self.backlog.extend(islice(self.source, 1))
        return bool(self.backlog)

    def add(self, outcomes: Outcomes) -> None:
        """Record the broker's replies."""
        self.confirmed.update(message.message_id for message in outcomes.confirmed)
        self.returned += outcomes.returned
        self.nacked += outcomes.nacked

    def requeue(self, session: Session) -> None:
        """Put the unconfirmed messages of an ended session back into the backlog."""
        self.backlog.extendleft(reversed(session.unconfirmed.values()))
        self.resent += len(session.unconfirmed)

    @property
    def stopped(self) -> bool:
        """Whether to send no more messages, because the queue would reject them too."""
        return bool(self.returned or self.nacked)


class Publisher:
    """Publishes to one queue, over one connection that the first `publish` opens.

    Use it as a context manager, which closes the connection at the end. All calls of `publish`
    share the connection; if it was lost between two calls, the next call opens another. Each thread
    needs its own publisher.
    """

    def __init__(self, config: BrokerConfig) -> None:
        self._config = config
        self._session: Session | None = None
        self._max_message_bytes = config.max_message_bytes
        self._in_use = threading.Lock()
        self._delays = ReconnectDelays(config.backoff, config.max_backoff)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection if it is open. A later `publish` opens another."""
        if self._session is not None:
            session, self._session = self._session, None
            with quiet_pika():
                session.close()

    def publish(self, messages: Iterable[OutgoingMessage]) -> PublishReport:
        """Send the messages and wait until each is confirmed.

        At most `in_flight` messages are unconfirmed at a time; `messages` is read as confirms
        arrive. After a lost connection the publisher opens another and sends the unconfirmed
        messages again under the same ids, as often as `attempts` allows. After a returned or nacked
        message it sends no more, but waits for those in flight.

        Args:
            messages: Read once, in order. The connection is not served while the iterator runs, so
                it is lost if the next message takes longer than the heartbeat.

        Returns:
            The ids of all messages.

        Raises:
            BrokerError: Not all messages were confirmed; `confirmed` has the ids of those that
                were. Other exceptions come from `messages` or are interrupts.
            RuntimeError: Another thread is using this publisher.
        """
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError(
                "a Publisher serves one thread at a time; create one for each thread"
            )
        state = _PublishState(iter(messages))
        try:
            with quiet_pika():
                self._publish(state)
        except BrokerError as error:
            error.confirmed = frozenset(state.confirmed)
            raise
        except BaseException:
            # The source failed or an interrupt came. Do not wait for the messages in flight.
            self._drop_session()
            raise
        finally:
            self._in_use.release()
        return PublishReport(frozenset(state.confirmed), state.resent)

    def _publish(self, state: _PublishState) -> None:
        """Send everything, over as many connections as that takes."""
        self._drop_session_if_ended()
        failures = 0
        done = not state.has_more()
        while not done:
            confirmed = len(state.confirmed)
            try:
                done = self._attempt(state)
            except BrokerError as error:
                if not error.needs_reconnect:
                    raise
                if state.stopped:
                    break
                failures = 1 if len(state.confirmed) > confirmed else failures + 1
                if failures >= self._config.attempts:
                    raise self._exhausted_error(state, error) from error
                pause = self._delays.after(failures)
                _LOGGER.warning(
                    "%s; attempt %d of %d in %.1f s",
                    error,
                    failures + 1,
                    self._config.attempts,
                    pause,
                )
                time.sleep(pause)
        self._raise_for_rejected(state)

    def _attempt(self, state: _PublishState) -> bool:
        """Send over one connection; keep it open only if nothing is left to do."""
        done = False
        try:
            if self._session is None:
                self._session = Session(self._config)
            done = self._send_all(state, self._session)
        finally:
            if not done:
                self._drop_session()
        return done

    def _send_all(self, state: _PublishState, session: Session) -> bool:
        """Send messages and wait for their confirms over one connection.

        Returns:
            Whether everything is sent and confirmed. If not, another connection is needed.

        Raises:
            BrokerError: The connection was lost, or another one would not help.
        """
        waited = 0.0  # seconds without a reply; time spent in the source does not count
        while session.unconfirmed or (state.has_more() and not state.stopped):
            if session.ended:
                state.requeue(session)
                return self._handle_ended(session)
            self._send_while_room(state, session)
            blocked = session.blocked
            timeout = (
                self._config.confirm_timeout if blocked is None else self._config.blocked_timeout
            )
            begin = time.monotonic()
            outcomes = session.process_events(timeout - waited)
            state.add(outcomes)
            if outcomes or session.blocked != blocked:
                waited = 0.0
                continue
            waited += time.monotonic() - begin
            if waited >= timeout and not session.ended:
                raise self._timeout_error(session)
        return True

    def _send_while_room(self, state: _PublishState, session: Session) -> None:
        """Send messages until the limits of messages in flight are reached."""
        with session.sending():
            while (
                session.blocked is None
                and len(session.unconfirmed) < self._config.in_flight
                and session.unconfirmed_bytes < self._config.in_flight_bytes
                and not state.stopped
                and state.has_more()
            ):
                message = state.backlog.popleft()
                if len(message.body) > self._max_message_bytes:
                    state.too_large.append(message)
                else:
                    session.send(message)

    def _handle_ended(self, session: Session) -> bool:
        """Decide what to do about a session that ended before everything was confirmed.

        Returns:
            False: open another connection. The broker's size limit is known now.

        Raises:
            BrokerError: The session ended for another reason than the size of a message.
        """
        if session.channel_error is None:
            raise BrokerError(
                BrokerErrorKind.CONNECTION_LOST,
                f"lost the connection to {self._config}: {session.connection_error}",
            )
        limit = size_limit(session.channel_error)
        if limit is None or limit >= self._max_message_bytes:
            raise translate_publish_error(
                self._config, session.channel_error
            ) from session.channel_error
        self._max_message_bytes = limit
        return False

    def _timeout_error(self, session: Session) -> BrokerError:
        unconfirmed = f"{_count(len(session.unconfirmed))} unconfirmed"
        if session.blocked is not None:
            return BrokerError(
                BrokerErrorKind.BLOCKED,
                f"{self._config} accepts no messages ({session.blocked}) and did not recover "
                f"within {self._config.blocked_timeout:g} s, {unconfirmed}; free memory or disk "
                "space on the broker",
            )
        return BrokerError(
            BrokerErrorKind.CONFIRM_TIMEOUT,
            f"{self._config} confirmed nothing for {self._config.confirm_timeout:g} s, "
            f"{unconfirmed}; check that queue {self._config.queue!r} has a leader and that most of "
            "its nodes are up",
        )

    def _exhausted_error(self, state: _PublishState, error: BrokerError) -> BrokerError:
        attempts = f"gave up after {self._config.attempts} attempts in a row"
        if state.resent == 0:
            return BrokerError(BrokerErrorKind.UNREACHABLE, f"{error}; {attempts}")
        return BrokerError(
            BrokerErrorKind.CONNECTION_LOST,
            f"lost the connection with {_count(len(state.backlog))} unconfirmed and {attempts}; "
            f"last error: {error}",
        )

    def _raise_for_rejected(self, state: _PublishState) -> None:
        """Raise if the broker returned or nacked a message, or one was too large.

        Raises:
            BrokerError: For the first of these, in this order.
        """
        queue = f"queue {self._config.queue!r} on {self._config}"
        if state.returned:
            # The next connection checks the queue again.
            self.close()
            message, reply_text = state.returned[0]
            raise BrokerError(
                BrokerErrorKind.RETURNED,
                f"{queue} was deleted: {_count(len(state.returned))} returned ({reply_text}), "
                f"first {message.message_id}; the next attempt declares the queue again",
            )
        if state.nacked:
            raise BrokerError(
                BrokerErrorKind.NACKED,
                f"{queue} rejected {_count(len(state.nacked))}, first "
                f"{state.nacked[0].message_id}; it is full (overflow reject-publish) or failed: "
                "consume its messages, or raise its length limit",
            )
        if state.too_large:
            message = state.too_large[0]
            raise BrokerError(
                BrokerErrorKind.TOO_LARGE,
                f"{_count(len(state.too_large))} for {queue} too large, first "
                f"{message.message_id}: {len(message.body)} bytes where {self._max_message_bytes} "
                "are allowed; lower NUM_DATA_POINTS, or raise the broker's max_message_size",
            )

    def _drop_session(self) -> None:
        """Drop the connection without waiting for the broker."""
        if self._session is not None:
            session, self._session = self._session, None
            session.abort()

    def _drop_session_if_ended(self) -> None:
        """Drop the connection if it was lost since the last call."""
        if self._session is not None:
            self._session.process_events(0.0)
            if self._session.ended:
                self._drop_session()


def _count(messages: int) -> str:
    return "1 message" if messages == 1 else f"{messages} messages"
