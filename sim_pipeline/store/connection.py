"""Connections to a PostgreSQL database: `Postgres` and the settings of every session.

SQLAlchemy with psycopg2 is for queries and small writes, ADBC for bulk writes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlencode

import sqlalchemy as sa

if TYPE_CHECKING:
    from adbc_driver_postgresql import dbapi as adbc

# A server that disappears silently is detected after 30 + 3 * 10 s instead of two hours.
_LIVENESS = {
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}

# Settings that sessions rely on, whatever the defaults of the server, the database or the role are.
# They are part of the connection request and cost no round trip. A pooler must pass on the startup
# parameter `options`, or set them itself.
SESSION_SETTINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "TimeZone": "UTC",  # Dagster's tables have timestamps without a zone
        "DateStyle": "ISO",
        "IntervalStyle": "postgres",
        "extra_float_digits": "1",  # floats as text are exact; messages are made from them
        "default_transaction_isolation": "read committed",  # stricter ones abort concurrent writers
        "statement_timeout": "0",  # a bulk write has no time limit
        "lock_timeout": "0",  # writers of the same windows wait for each other
        "idle_in_transaction_session_timeout": "0",  # set by the transactions that need it
        "standard_conforming_strings": "on",
    }
)


def session_parameters() -> dict[str, str]:
    """Return the libpq connection parameters that set `SESSION_SETTINGS` and the encoding."""
    options = (
        f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in SESSION_SETTINGS.items()
    )
    return {"client_encoding": "utf8", "options": " ".join(options)}


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL database and the connections to it.

    Attributes:
        host: name or address.
        port: TCP port.
        user: role to log in as.
        password: never shown by `repr`.
        database: name of the database.
        sslmode: libpq's, from `disable` to `verify-full`.
        sslrootcert: file of CA certificates, or None for libpq's default.
        connect_timeout: seconds for each address of the host to accept a connection, 2 or more.
    """

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    sslmode: str = "prefer"
    sslrootcert: Path | None = None
    connect_timeout: int = 10

    def __str__(self) -> str:
        """Return the address for error messages, without the password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"postgresql://{host}:{self.port}, database {self.database!r}"

    def _parameters(self) -> dict[str, str]:
        parameters = {
            **_LIVENESS,
            **session_parameters(),
            "connect_timeout": str(self.connect_timeout),
            "sslmode": self.sslmode,
            "application_name": "sim_pipeline",
        }
        if self.sslrootcert is not None:
            parameters["sslrootcert"] = str(self.sslrootcert)
        return parameters

    @property
    def url(self) -> sa.URL:
        """The database's SQLAlchemy URL; its `repr` hides the password, its `str` does not.

        It names the driver, because the default driver changes with SQLAlchemy's version.
        """
        return sa.URL.create(
            "postgresql+psycopg2",
            self.user,
            self.password,
            self.host,
            self.port,
            self.database,
            self._parameters(),
        )

    @cached_property
    def engine(self) -> sa.Engine:
        """A pool of at most five connections; each is tested before it is used."""
        return sa.create_engine(self.url, pool_size=2, max_overflow=3, pool_pre_ping=True)

    def reachable(self) -> bool:
        """Return whether the database accepts a connection now."""
        try:
            with self.engine.connect():
                return True
        except sa.exc.OperationalError:
            return False

    def bulk_connection(self) -> "adbc.Connection":
        """Open an ADBC connection, which reads and writes Arrow data; the caller closes it.

        Raises:
            adbc_driver_manager.OperationalError: the database can't be reached or refuses.
        """
        # Imported here: the import, with pyarrow and pandas, takes longer than a small run.
        from adbc_driver_postgresql import dbapi as adbc  # noqa: PLC0415

        # As query parameters, because the host can be an IPv6 address or a socket directory.
        parameters = {
            "host": self.host,
            "port": str(self.port),
            "user": self.user,
            "password": self.password,
            "dbname": self.database,
            **self._parameters(),
        }
        return adbc.connect(f"postgresql://?{urlencode(parameters, quote_via=quote)}")
