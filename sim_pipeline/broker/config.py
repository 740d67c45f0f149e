"""Where the broker is, and how patient to be with it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_MAX_SHORT_STRING: Final = 255
"""Bytes of AMQP's short string, the type of the names of queues and virtual hosts."""


@dataclass(frozen=True, kw_only=True)
class BrokerConfig:
    """The connection to RabbitMQ. Times in seconds.

    Attributes:
        host: Name or address; with TLS, the name that the certificate must be for.
        port: 5672 by custom, 5671 with TLS.
        user: Who to log in as.
        password: Never shown.
        vhost: Virtual host.
        queue: Where messages go. Used as it is if it exists; if not, declared durable, as a
            quorum queue.
        tls: Whether to encrypt, verifying the certificate and the host name.
        ca_file: PEM file of the authorities to trust instead of the system's.
        heartbeat: Asked of the broker. A peer that has gone silent is found out after one to two
            times this and five seconds, which is sooner than `confirm_timeout`: what runs into
            that is a broker that lives but does not confirm.
        socket_timeout: For one address to accept a TCP connection.
        stack_timeout: For one address to accept TCP, TLS and log-in together; also for the reply
            to a request on an open connection.
        connect_timeout: For one attempt to connect, with name resolution and all addresses.
        blocked_timeout: For a broker that is low on memory or disk to take messages again.
        confirm_timeout: For the next confirm to arrive while some are awaited.
        close_timeout: For a farewell. After it, or without one, the connection is cut.
        attempts: Failures in a row, of connecting or of the connection, with no confirm in
            between, after which to give up. 1 gives up at the first; 8 span about 17 s, in which a
            broker restarts.
        backoff: Pause after the first failure. It doubles with each, and is shortened at random,
            by up to a half, so that many publishers do not return at the same moment.
        max_backoff: Longest pause.
        in_flight: Most messages sent and unconfirmed.
        in_flight_bytes: Most bytes of them: with long messages, what bounds the memory.
        max_message_bytes: Longer messages are refused unsent. 16 MiB is what RabbitMQ takes from
            version 4 on (128 MiB before); a broker that takes less is found out.

    Raises:
        ValueError: A name is empty or too long for AMQP, or a number is not positive.
    """

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    vhost: str = "/"
    queue: str
    tls: bool = False
    ca_file: Path | None = None
    heartbeat: int = 20
    socket_timeout: float = 5.0
    stack_timeout: float = 15.0
    connect_timeout: float = 30.0
    blocked_timeout: float = 30.0
    confirm_timeout: float = 60.0
    close_timeout: float = 5.0
    attempts: int = 8
    backoff: float = 0.5
    max_backoff: float = 5.0
    in_flight: int = 1000
    in_flight_bytes: int = 32 * 1024**2
    max_message_bytes: int = 16 * 1024**2

    def __post_init__(self) -> None:
        """Refuse what would only fail later, or never end."""
        for name in ("vhost", "queue"):
            value: str = getattr(self, name)
            if not 1 <= len(value.encode()) <= _MAX_SHORT_STRING:
                raise ValueError(
                    f"{name} must be 1 to {_MAX_SHORT_STRING} bytes of UTF-8, not {value!r}"
                )
        for name in (
            "port",
            "heartbeat",
            "socket_timeout",
            "stack_timeout",
            "connect_timeout",
            "blocked_timeout",
            "confirm_timeout",
            "close_timeout",
            "attempts",
            "backoff",
            "max_backoff",
            "in_flight",
            "in_flight_bytes",
            "max_message_bytes",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)!r}")

    def __str__(self) -> str:
        """Where it leads, as error messages name it: without the password."""
        scheme = "amqps" if self.tls else "amqp"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}, virtual host {self.vhost!r}"
