"""From what pika and RabbitMQ say to the errors of `errors.py`."""

import re
import socket
import ssl
from typing import Final

from pika.adapters.utils.connection_workflow import (
    AMQPConnectionWorkflowFailed,
    AMQPConnectorPhaseErrorBase,
    AMQPConnectorSocketConnectError,
    AMQPConnectorStackTimeout,
)
from pika.exceptions import (
    AMQPConnectionError,
    AuthenticationError,
    ChannelClosedByBroker,
    ConnectionClosed,
    ConnectionOpenAborted,
    IncompatibleProtocolError,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.broker.errors import (
    AccessRefusedError,
    BrokerError,
    BrokerUnreachableError,
    ChannelClosedError,
    LoginRefusedError,
    QueueDownError,
    QueueUnavailableError,
    TlsError,
)

# Reply codes of AMQP 0-9-1.
ACCESS_REFUSED: Final = 403
NOT_FOUND: Final = 404
PRECONDITION_FAILED: Final = 406
NOT_ALLOWED: Final = 530

_CLOSED_BY_BROKER: Final = re.compile(r"ConnectionClosedByBroker: \((\d+)\) (.*)", re.DOTALL)
_TOO_LARGE: Final = re.compile(r"message size \d+ is larger than (?:configured )?max size (\d+)")
_DOWN: Final = re.compile(
    "is down or inaccessible|is stopped by supervisor|has crashed|due to timeout"
)


def words_of(error: BaseException) -> str:
    """What is said, without the class of the exception."""
    if isinstance(error, ConnectionClosed | ChannelClosedByBroker):
        return f"{error.reply_text} ({error.reply_code})"
    return str(error) or type(error).__name__


def is_down(error: ChannelClosedByBroker) -> bool:
    """Whether a queue that is "not found" does exist, on a node that is down."""
    return _DOWN.search(error.reply_text) is not None


def size_limit(error: ChannelClosedByBroker) -> int | None:
    """The most bytes that a message may have, if that a message had more is what it says."""
    found = _TOO_LARGE.search(error.reply_text)
    return int(found[1]) if found else None


def connect_error(config: BrokerConfig, error: BaseException) -> BrokerError:
    """Why there is no connection, from what pika hands to its `on_open_error_callback`."""
    match root := _root(error):
        case AuthenticationError() | ProbableAuthenticationError() | ProbableAccessDeniedError():
            return _log_in_error(config, root)
        case ssl.SSLEOFError():
            return BrokerUnreachableError(f"cannot reach {config}: it hung up on TLS")
        case ssl.SSLError():
            return _tls_error(config, root)
        case _:
            return BrokerUnreachableError(f"cannot reach {config}: {_why_unreachable(root)}")


def queue_error(config: BrokerConfig, error: ChannelClosedByBroker) -> BrokerError:
    """Why the queue cannot be had, from the answer to its declaration."""
    if is_down(error):
        return QueueDownError(
            f"queue {config.queue!r} on {config} is down: {words_of(error)}; it returns with its "
            "node"
        )
    if error.reply_code == ACCESS_REFUSED:
        return QueueUnavailableError(
            f"queue {config.queue!r} does not exist on {config}, and user {config.user!r} may not "
            f"declare it: {words_of(error)}; declare it, or permit the user to"
        )
    return QueueUnavailableError(
        f"queue {config.queue!r} on {config} cannot be used: {words_of(error)}"
    )


def channel_error(config: BrokerConfig, error: ChannelClosedByBroker) -> BrokerError:
    """Why the broker closed the channel while messages were sent on it."""
    if error.reply_code == ACCESS_REFUSED:
        return AccessRefusedError(
            f"user {config.user!r} may not publish on {config}: {words_of(error)}; permit it to "
            "write to the default exchange, amq.default"
        )
    return ChannelClosedError(f"{config} closed the channel: {words_of(error)}")


def _root(error: BaseException) -> BaseException:
    """The error at the heart of those that pika wraps around it."""
    if isinstance(error, AMQPConnectionError) and error.args:
        wrapped = error.args[0]
        if isinstance(wrapped, AMQPConnectionWorkflowFailed):
            return _root(wrapped)
    if isinstance(error, AMQPConnectionWorkflowFailed):
        # One for each address. The one that got further tells more than one where nobody listens.
        return _root(
            max(
                error.exceptions,
                key=lambda one: not isinstance(one, AMQPConnectorSocketConnectError),
            )
        )
    if isinstance(error, AMQPConnectorPhaseErrorBase):
        return _root(error.exception)
    return error


def _why_unreachable(error: BaseException) -> str:
    match error:
        case socket.gaierror():
            return f"its name has no address ({error.strerror})"
        case ConnectionRefusedError():
            return "nothing listens there; start RabbitMQ, or correct host and port"
        case AMQPConnectorStackTimeout() | ConnectionOpenAborted() | TimeoutError():
            return "no answer in time; is this RabbitMQ, and is it well?"
        case IncompatibleProtocolError():
            return "it hung up on AMQP 0-9-1; is this RabbitMQ, and does its port want TLS?"
        case _:
            return words_of(error)


def _tls_error(config: BrokerConfig, error: ssl.SSLError) -> TlsError:
    if isinstance(error, ssl.SSLCertVerificationError):
        trusted = config.ca_file or "the system's store of authorities"
        return TlsError(
            f"no trust in {config}: {error.verify_message}; use the host name of its certificate, "
            f"and see that {trusted} holds the authority that signed it"
        )
    return TlsError(f"no TLS with {config}: {error.reason or error}; is this its port for TLS?")


def _log_in_error(config: BrokerConfig, error: BaseException) -> BrokerError:
    """From what pika guesses to what the broker said, which pika keeps as a text only.

    A connection that is merely lost at this moment gets the same guess.
    """
    if isinstance(error, AuthenticationError):
        return LoginRefusedError(
            f"{config} offers no log-in by password; enable the mechanism PLAIN there"
        )
    found = _CLOSED_BY_BROKER.search(str(error))
    code, words = (int(found[1]), found[2].strip("'\"")) if found else (0, words_of(error))
    if code == ACCESS_REFUSED:
        return LoginRefusedError(
            f"{config} refused to log in user {config.user!r}; check the user and its password"
        )
    if code == NOT_ALLOWED and "limit" not in words:
        return AccessRefusedError(
            f"{config} refused user {config.user!r}: {words}; create the virtual host, or permit "
            "the user to use it"
        )
    return BrokerUnreachableError(f"cannot reach {config}: it hung up while logging in: {words}")
