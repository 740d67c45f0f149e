"""Translates what pika and RabbitMQ report into a `BrokerError` with a cause and a remedy."""

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
from sim_pipeline.broker.errors import BrokerError, BrokerErrorKind

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


def error_text(error: BaseException) -> str:
    """Return the text of an exception, or its class name if it has none.

    For a close by the broker: the broker's text and reply code.
    """
    if isinstance(error, ConnectionClosed | ChannelClosedByBroker):
        return f"{error.reply_text} ({error.reply_code})"
    return str(error) or type(error).__name__


def is_down(error: ChannelClosedByBroker) -> bool:
    """Return whether a queue reported as "not found" exists on a node that is down."""
    return _DOWN.search(error.reply_text) is not None


def size_limit(error: ChannelClosedByBroker) -> int | None:
    """Return the broker's limit in bytes if a message exceeded it; else None."""
    found = _TOO_LARGE.search(error.reply_text)
    return int(found[1]) if found else None


def translate_connect_error(config: BrokerConfig, error: BaseException) -> BrokerError:
    """Return the error for a failed attempt to connect.

    Args:
        config: The connection.
        error: As pika passes it to `on_open_error_callback`.
    """
    match cause := _root_cause(error):
        case AuthenticationError() | ProbableAuthenticationError() | ProbableAccessDeniedError():
            return _login_error(config, cause)
        case ssl.SSLEOFError():
            return _unreachable(config, "it hung up on TLS")
        case ssl.SSLError():
            return _tls_error(config, cause)
        case _:
            return _unreachable(config, _why_unreachable(cause))


def translate_queue_error(config: BrokerConfig, error: ChannelClosedByBroker) -> BrokerError:
    """Return the error for a queue that the broker refused to declare."""
    if is_down(error):
        return BrokerError(
            BrokerErrorKind.QUEUE_DOWN,
            f"queue {config.queue!r} on {config} is down: {error_text(error)}; it returns with its "
            "node",
        )
    if error.reply_code == ACCESS_REFUSED:
        return BrokerError(
            BrokerErrorKind.QUEUE_UNAVAILABLE,
            f"queue {config.queue!r} does not exist on {config}, and user {config.user!r} may not "
            f"declare it: {error_text(error)}; declare the queue, or grant the user permission to "
            "configure it",
        )
    return BrokerError(
        BrokerErrorKind.QUEUE_UNAVAILABLE,
        f"queue {config.queue!r} on {config} cannot be used: {error_text(error)}",
    )


def translate_publish_error(config: BrokerConfig, error: ChannelClosedByBroker) -> BrokerError:
    """Return the error for a channel that the broker closed while messages were sent."""
    if error.reply_code == ACCESS_REFUSED:
        return BrokerError(
            BrokerErrorKind.ACCESS_REFUSED,
            f"user {config.user!r} may not publish on {config}: {error_text(error)}; grant the "
            "user permission to write to the default exchange, amq.default",
        )
    return BrokerError(
        BrokerErrorKind.CHANNEL_CLOSED, f"{config} closed the channel: {error_text(error)}"
    )


def translate_consume_error(config: BrokerConfig, error: ChannelClosedByBroker) -> BrokerError:
    """Return the error for a queue that the broker refused to read from."""
    if error.reply_code == ACCESS_REFUSED:
        return BrokerError(
            BrokerErrorKind.ACCESS_REFUSED,
            f"user {config.user!r} may not read queue {config.queue!r} on {config}: "
            f"{error_text(error)}; grant the user permission to read the queue, or stop the "
            "consumer that reads it exclusively",
        )
    return translate_queue_error(config, error)


def _root_cause(error: BaseException) -> BaseException:
    """Unwrap the exceptions that pika puts around the cause."""
    if isinstance(error, AMQPConnectionError) and error.args:
        wrapped = error.args[0]
        if isinstance(wrapped, AMQPConnectionWorkflowFailed):
            return _root_cause(wrapped)
    if isinstance(error, AMQPConnectionWorkflowFailed):
        # One exception per address. An attempt that got past TCP says more than one that did not.
        return _root_cause(
            max(
                error.exceptions,
                key=lambda failure: not isinstance(failure, AMQPConnectorSocketConnectError),
            )
        )
    if isinstance(error, AMQPConnectorPhaseErrorBase):
        return _root_cause(error.exception)
    return error


def _unreachable(config: BrokerConfig, reason: str) -> BrokerError:
    return BrokerError(BrokerErrorKind.UNREACHABLE, f"cannot reach {config}: {reason}")


def _why_unreachable(error: BaseException) -> str:
    match error:
        case socket.gaierror():
            return f"its host name has no address ({error.strerror})"
        case ConnectionRefusedError():
            return "nothing listens there; start RabbitMQ, or correct host and port"
        case AMQPConnectorStackTimeout() | ConnectionOpenAborted() | TimeoutError():
            return "timed out; check that this is a healthy RabbitMQ"
        case IncompatibleProtocolError():
            return (
                "it hung up on AMQP 0-9-1; check that this is RabbitMQ, and whether its port "
                "requires TLS"
            )
        case _:
            return error_text(error)


def _tls_error(config: BrokerConfig, error: ssl.SSLError) -> BrokerError:
    if isinstance(error, ssl.SSLCertVerificationError):
        trusted = config.ca_file or "the system's trust store"
        return BrokerError(
            BrokerErrorKind.TLS,
            f"TLS verification failed for {config}: {error.verify_message}; use the host name in "
            f"the certificate, and check that {trusted} contains the CA that signed it",
        )
    return BrokerError(
        BrokerErrorKind.TLS,
        f"TLS handshake failed with {config}: {error.reason or error}; check that this is its TLS "
        "port",
    )


def _login_error(config: BrokerConfig, error: BaseException) -> BrokerError:
    """Return the error for a failed login.

    pika guesses the cause and keeps the broker's reply only as text. It makes the same guess when
    the connection is merely lost at this point.
    """
    if isinstance(error, AuthenticationError):
        return BrokerError(
            BrokerErrorKind.LOGIN_REFUSED,
            f"{config} does not accept passwords; enable the mechanism PLAIN there",
        )
    found = _CLOSED_BY_BROKER.search(str(error))
    code, text = (int(found[1]), found[2].strip("'\"")) if found else (0, error_text(error))
    if code == ACCESS_REFUSED:
        return BrokerError(
            BrokerErrorKind.LOGIN_REFUSED,
            f"{config} refused to log in user {config.user!r}; check the user and its password",
        )
    if code == NOT_ALLOWED and "limit" not in text:
        return BrokerError(
            BrokerErrorKind.ACCESS_REFUSED,
            f"{config} refused user {config.user!r}: {text}; create the virtual host, or grant the "
            "user access to it",
        )
    return _unreachable(config, f"it hung up during login: {text}")
