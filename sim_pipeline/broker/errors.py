"""What can go wrong between here and the broker.

Every error says what happened, where, and what to do about it; none holds the password. Three
attributes tell the caller how to go on: `confirmed`, what needs no second sending; `retryable`,
whether the same call may succeed later with nobody doing anything; and `waited`, whether that is
to be much later.
"""

from typing import ClassVar
from uuid import UUID


class BrokerError(Exception):
    """Not every message of a `publish` call was confirmed.

    Attributes:
        confirmed: Ids of those messages of the call that the broker did confirm. They are safe in
            the queue; all others may or may not be, and are sent again under the same id.
    """

    retryable: ClassVar[bool]
    """Whether trying again later, with nothing changed here, can succeed."""

    waited: ClassVar[bool] = False
    """Whether the publisher has itself tried again, or waited, for a good while: whoever called it
    and tries again shortly does the same once more."""

    confirmed: frozenset[UUID] = frozenset()


class BrokerUnreachableError(BrokerError):
    """No connection: no such host, nothing listens, no answer in time, or hung up on."""

    retryable = True
    waited = True


class TlsError(BrokerError):
    """No trust: the certificate, its host name or the CA file is wrong, or no TLS is spoken."""

    retryable = False


class LoginRefusedError(BrokerError):
    """The broker does not know the user or the password."""

    retryable = False


class AccessRefusedError(BrokerError):
    """The virtual host does not exist, or the user may not use it, or may not publish in it."""

    retryable = False


class QueueUnavailableError(BrokerError):
    """The queue does not exist and cannot be declared, or cannot be used."""

    retryable = False


class QueueDownError(BrokerError):
    """The queue exists, but the node that holds it is down."""

    retryable = True


class MessageReturnedError(BrokerError):
    """The broker had no queue to put a message in: the queue was deleted after the check for it.

    Retryable, for the next connection declares it anew.
    """

    retryable = True


class MessageNackedError(BrokerError):
    """The broker refused to take a message: the queue is full, or failed."""

    retryable = True


class MessageTooLargeError(BrokerError):
    """A message is larger than the broker takes. All others of the call were sent."""

    retryable = False


class BrokerBlockedError(BrokerError):
    """The broker takes no messages, being low on memory or disk, and stayed so too long."""

    retryable = True
    waited = True


class ConnectionLostError(BrokerError):
    """The connection broke while messages were unconfirmed, and again after reconnecting."""

    retryable = True
    waited = True


class ConfirmTimeoutError(BrokerError):
    """The connection stands, but the broker stopped confirming."""

    retryable = True
    waited = True


class ChannelClosedError(BrokerError):
    """The broker closed the channel for a reason that has no error of its own here."""

    retryable = True
