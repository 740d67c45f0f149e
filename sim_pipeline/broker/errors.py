"""`BrokerError`, the one error of this package, and its kinds.

A message says what happened, where, and what to do about it. It never contains the password.
"""

from enum import Enum
from typing import Final
from uuid import UUID


class BrokerErrorKind(Enum):
    """The cause of a `BrokerError`."""

    UNREACHABLE = "unknown host, nothing listens, a timeout, or the peer hung up"
    TLS = "wrong certificate, host name or CA file, or the port has no TLS"
    LOGIN_REFUSED = "wrong user or password"
    ACCESS_REFUSED = "the virtual host does not exist, or the user lacks a permission"
    QUEUE_UNAVAILABLE = "the queue cannot be declared or used"
    QUEUE_DOWN = "the queue exists, but the node that holds it is down"
    RETURNED = "the queue was deleted after it was checked"
    NACKED = "the queue is full or failed"
    TOO_LARGE = "a message exceeds the broker's limit; the other messages were sent"
    BLOCKED = "the broker was low on memory or disk for too long"
    CONNECTION_LOST = "the connection broke while messages were unconfirmed"
    CONFIRM_TIMEOUT = "the connection is open, but the broker stopped confirming"
    CHANNEL_CLOSED = "the broker closed the channel for another reason"


_CONNECTION: Final = {BrokerErrorKind.UNREACHABLE, BrokerErrorKind.CONNECTION_LOST}
_WAITED: Final = _CONNECTION | {BrokerErrorKind.BLOCKED, BrokerErrorKind.CONFIRM_TIMEOUT}
_RETRYABLE: Final = _WAITED | {
    BrokerErrorKind.QUEUE_DOWN,
    BrokerErrorKind.RETURNED,  # the next connection declares the queue again
    BrokerErrorKind.NACKED,
    BrokerErrorKind.CHANNEL_CLOSED,
}


class BrokerError(Exception):
    """RabbitMQ cannot be used, or did not confirm every message of a `publish` call.

    Attributes:
        kind: The cause.
        confirmed: Ids of the messages of the call that the broker did confirm. They are safe in
            the queue. The others may be there too; they are sent again under the same ids.
    """

    confirmed: frozenset[UUID] = frozenset()

    def __init__(self, kind: BrokerErrorKind, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind

    def __str__(self) -> str:
        """Return the message alone."""
        return str(self.args[1])

    @property
    def retryable(self) -> bool:
        """Whether a later attempt can succeed with nothing changed on this side."""
        return self.kind in _RETRYABLE

    @property
    def waited(self) -> bool:
        """Whether the publisher has already retried, or waited, for a long time.

        A caller that retries at once only repeats that.
        """
        return self.kind in _WAITED

    @property
    def needs_reconnect(self) -> bool:
        """Whether the connection failed, so that a new one can help."""
        return self.kind in _CONNECTION
