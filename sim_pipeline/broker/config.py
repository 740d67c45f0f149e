"""`BrokerConfig`: the connection to RabbitMQ, its timeouts and its limits."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_MAX_SHORT_STRING: Final = 255
"""Maximum bytes of an AMQP short string, the type of queue and virtual host names."""


@dataclass(frozen=True, kw_only=True)
class BrokerConfig:
    """The connection to RabbitMQ. Times in seconds.

    Attributes:
        host: Host name or address. With TLS, the certificate must be for this name.
        port: Usually 5672, or 5671 with TLS.
        user: User to log in as.
        password: Password of the user. It is not part of `repr` or `str`.
        vhost: Virtual host.
        queue: Queue to use. An existing queue is used as it is; a missing one is declared as a
            durable quorum queue without a limit of deliveries.
        tls: Whether to encrypt, and to verify the certificate and the host name.
        ca_file: PEM file of the CAs to trust instead of the system's.
        heartbeat: Requested from the broker. A silent peer is detected after one to two heartbeats
            plus five seconds. That is sooner than `confirm_timeout`, which therefore means a live
            broker that does not confirm.
        socket_timeout: For one address to accept a TCP connection.
        stack_timeout: For one address to complete TCP, TLS and login. Also for the reply to a
            request on an open connection.
        connect_timeout: For one attempt to connect, including name resolution and all addresses.
        blocked_timeout: For a broker that is low on memory or disk to accept messages again.
        confirm_timeout: For the next confirm while messages are unconfirmed.
        close_timeout: For a clean close. After it the socket is dropped.
        attempts: Consecutive connection failures, with no confirm in between, after which to give
            up. 1 gives up at the first. 8 take about 17 s, enough for a broker restart.
        backoff: Pause after the first failure. It doubles with each further one, and a random part
            of up to a half is subtracted, so that many publishers do not reconnect at once.
        max_backoff: Longest pause.
        in_flight: Maximum number of messages sent and unconfirmed.
        in_flight_bytes: Maximum size of them together. It bounds memory when messages are long.
        max_message_bytes: Longer messages are not sent. RabbitMQ accepts 16 MiB from version 4 on,
            and 128 MiB before. If the broker's limit is lower, the publisher learns it.

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
        """Reject values that would fail later, or wait for ever."""
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
        """Return the address for error messages, without the password."""
        scheme = "amqps" if self.tls else "amqp"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}, virtual host {self.vhost!r}"
