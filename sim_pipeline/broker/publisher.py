"""Publishes messages, and returns when the broker has confirmed every one of them."""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from random import SystemRandom
from types import TracebackType
from typing import Self
from uuid import UUID

from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.broker.connection import Outcomes, Session
from sim_pipeline.broker.error_translation import channel_error, size_limit
from sim_pipeline.broker.errors import (
    BrokerBlockedError,
    BrokerError,
    BrokerUnreachableError,
    ConfirmTimeoutError,
    ConnectionLostError,
    MessageNackedError,
    MessageReturnedError,
    MessageTooLargeError,
)
from sim_pipeline.broker.message import OutgoingMessage
from sim_pipeline.broker.pika_logging import quiet_pika

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PublishReport:
    """A `publish` call that succeeded.

    Attributes:
        confirmed: Ids of all its messages.
        resent: How many were sent a second time, after a connection was lost: at most so many of
            them are in the queue twice, under the same id.
    """

    confirmed: frozenset[UUID]
    resent: int


@dataclass(slots=True)
class _Call:
    """What has come of the messages of one `publish` call so far."""

    source: Iterator[OutgoingMessage]
    # To send before anything from the source: what a connection that ended left unconfirmed.
    backlog: deque[OutgoingMessage] = field(default_factory=deque)
    resent: int = 0
    confirmed: set[UUID] = field(default_factory=set)
    returned: list[tuple[OutgoingMessage, str]] = field(default_factory=list)
    nacked: list[OutgoingMessage] = field(default_factory=list)
    too_large: list[OutgoingMessage] = field(default_factory=list)

    def has_more(self) -> bool:
        """Whether a message is left to send; if so, the backlog begins with it."""
        if not self.backlog:
            self.backlog.extend(islice(self.source, 1))
        return bool(self.backlog)

    def note(self, settled: Outcomes) -> None:
        """Take over what the broker said."""
        self.confirmed.update(message.message_id for message in settled.confirmed)
        self.returned += settled.returned
        self.nacked += settled.nacked

    def take_back(self, session: Session) -> None:
        """Send again, later, what an ended connection left unconfirmed."""
        self.backlog.extendleft(reversed(session.unconfirmed.values()))
        self.resent += len(session.unconfirmed)

    @property
    def stopped(self) -> bool:
        """Whether to send no more, since the next message would fare no better."""
        return bool(self.returned or self.nacked)


class Publisher:
    """Publishes to one queue, over one connection that is opened when first needed.

    A context manager: the connection is closed at its end, whatever happened. Calls of `publish`
    in between share the connection, and replace one that was lost while nobody was looking. Not
    for two threads at a time: each needs a publisher of its own.
    """

    def __init__(self, config: BrokerConfig) -> None:
        self._config = config
        self._session: Session | None = None
        self._max_message_bytes = config.max_message_bytes
        self._in_use = threading.Lock()
        self._random = SystemRandom()

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
        """Close the connection, if there is one. A later `publish` opens another."""
        if self._session is not None:
            session, self._session = self._session, None
            with quiet_pika():
                session.close()

    def publish(self, messages: Iterable[OutgoingMessage]) -> PublishReport:
        """Send the messages and wait until each is confirmed.

        Keeps at most `in_flight` of them, and reads `messages` as there is room. A connection that
        is lost is replaced, and what it left unconfirmed sent again under the same ids, as often
        as `attempts` allows. After a message that is returned or nacked no further ones are sent,
        but those in flight are waited for.

        Args:
            messages: Read once, in order, in between dealing with the broker: an iterator that
                takes longer than the heartbeat to give the next one costs the connection.

        Returns:
            The ids of all messages.

        Raises:
            BrokerError: Not all messages were confirmed; its `confirmed` has the ids of those that
                were. Everything else that is raised comes from `messages`, or is an interrupt.
            RuntimeError: Another thread is publishing with this publisher.
        """
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError("a Publisher serves one thread at a time: give each its own")
        call = _Call(iter(messages))
        try:
            with quiet_pika():
                self._publish(call)
        except BrokerError as error:
            error.confirmed = frozenset(call.confirmed)
            raise
        except BaseException:
            # The source failed, or an interrupt came: what is in flight nobody waits for.
            self._drop_session()
            raise
        finally:
            self._in_use.release()
        return PublishReport(frozenset(call.confirmed), call.resent)

    def _publish(self, call: _Call) -> None:
        """Send until done, over as many connections as that takes."""
        self._drop_session_if_ended()
        failures = 0
        done = not call.has_more()
        while not done:
            confirmed = len(call.confirmed)
            try:
                done = self._attempt(call)
            except (BrokerUnreachableError, ConnectionLostError) as error:
                if call.stopped:
                    break
                failures = 1 if len(call.confirmed) > confirmed else failures + 1
                if failures >= self._config.attempts:
                    raise self._give_up(call, error) from error
                self._pause(failures, error)
        self._raise_for_refused(call)

    def _attempt(self, call: _Call) -> bool:
        """Send over the connection, opened if need be, and keep it only if all went well."""
        done = False
        try:
            if self._session is None:
                self._session = Session(self._config)
            done = self._send_all(call, self._session)
        finally:
            if not done:
                self._drop_session()
        return done

    def _send_all(self, call: _Call, session: Session) -> bool:
        """Send and wait over one connection.

        Returns:
            Whether nothing is left to send or to wait for. If not, another connection is needed.

        Raises:
            BrokerError: The connection ended, or is of no use.
        """
        waited = 0.0  # seconds in turns with no news; what the source takes does not count
        while session.unconfirmed or (call.has_more() and not call.stopped):
            if session.ended:
                call.take_back(session)
                return self._learn_from_end(session)
            self._fill(call, session)
            blocked = session.blocked
            patience = (
                self._config.confirm_timeout if blocked is None else self._config.blocked_timeout
            )
            begin = time.monotonic()
            settled = session.turn(patience - waited)
            call.note(settled)
            if settled or session.blocked != blocked:
                waited = 0.0
                continue
            waited += time.monotonic() - begin
            if waited >= patience and not session.ended:
                raise self._out_of_patience(session)
        return True

    def _fill(self, call: _Call, session: Session) -> None:
        """Send for as long as there is room in flight."""
        with session.sending():
            while (
                session.blocked is None
                and len(session.unconfirmed) < self._config.in_flight
                and session.unconfirmed_bytes < self._config.in_flight_bytes
                and not call.stopped
                and call.has_more()
            ):
                message = call.backlog.popleft()
                if len(message.body) > self._max_message_bytes:
                    call.too_large.append(message)
                else:
                    session.send(message)

    def _learn_from_end(self, session: Session) -> bool:
        """Decide what the end of a session with work left means.

        Returns:
            False: go on over another connection, knowing now how long a message may be.
        """
        if session.refused is None:
            raise ConnectionLostError(f"lost the connection to {self._config}: {session.lost}")
        limit = size_limit(session.refused)
        if limit is None or limit >= self._max_message_bytes:
            raise channel_error(self._config, session.refused) from session.refused
        self._max_message_bytes = limit
        return False

    def _out_of_patience(self, session: Session) -> BrokerError:
        unconfirmed = f"{len(session.unconfirmed)} messages unconfirmed"
        if session.blocked is not None:
            return BrokerBlockedError(
                f"{self._config} takes no messages ({session.blocked}) and did not recover within "
                f"{self._config.blocked_timeout:g} s, {unconfirmed}; free its memory or disk"
            )
        return ConfirmTimeoutError(
            f"{self._config} confirmed nothing for {self._config.confirm_timeout:g} s, "
            f"{unconfirmed}; see whether queue {self._config.queue!r} has a leader and the "
            "majority of its nodes"
        )

    def _give_up(self, call: _Call, error: BrokerError) -> BrokerError:
        attempts = f"gave up after {self._config.attempts} attempts in a row"
        if call.resent == 0:
            return BrokerUnreachableError(f"{error}; {attempts}")
        return ConnectionLostError(
            f"lost the connection with {len(call.backlog)} messages unconfirmed, and {attempts}, "
            f"the last of which said: {error}"
        )

    def _raise_for_refused(self, call: _Call) -> None:
        """Report the messages that the broker would not have, if any."""
        queue = f"queue {self._config.queue!r} on {self._config}"
        if call.returned:
            # The next connection sees to the queue again.
            self.close()
            message, words = call.returned[0]
            raise MessageReturnedError(
                f"{queue} is gone: {_count(len(call.returned))} returned ({words}), first "
                f"{message.message_id}; the next call declares it anew"
            )
        if call.nacked:
            raise MessageNackedError(
                f"{queue} refused {_count(len(call.nacked))}, first {call.nacked[0].message_id}; "
                "it is full (its length limit says reject-publish) or failed: drain it, or raise "
                "the limit"
            )
        if call.too_large:
            message = call.too_large[0]
            raise MessageTooLargeError(
                f"{_count(len(call.too_large))} for {queue} too large, first {message.message_id} "
                f"of {len(message.body)} bytes where {self._max_message_bytes} are allowed; lower "
                "NUM_DATA_POINTS, or raise the broker's max_message_size"
            )

    def _pause(self, failures: int, error: BrokerError) -> None:
        """Wait before the next attempt, longer with each failure in a row."""
        longest = min(self._config.backoff * 2 ** (failures - 1), self._config.max_backoff)
        pause = longest * self._random.uniform(0.5, 1.0)
        _LOGGER.warning(
            "%s; attempt %d of %d in %.1f s", error, failures + 1, self._config.attempts, pause
        )
        # The back-off itself: a broker that is away cannot tell when it is back.
        time.sleep(pause)

    def _drop_session(self) -> None:
        """Cut the connection: nothing is expected of it any more."""
        if self._session is not None:
            session, self._session = self._session, None
            session.abort()

    def _drop_session_if_ended(self) -> None:
        """Look at what has happened to the connection since the last call."""
        if self._session is not None:
            self._session.turn(0.0)
            if self._session.ended:
                self._drop_session()


def _count(messages: int) -> str:
    return "1 message" if messages == 1 else f"{messages} messages"
