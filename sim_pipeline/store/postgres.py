"""How the results database is reached: one description, two drivers.

SQLAlchemy with psycopg2 serves the reads and the ledger; ADBC serves the bulk write.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import quote, urlencode

import sqlalchemy as sa
from adbc_driver_postgresql import dbapi as adbc

_CONNECT_TIMEOUT_SECONDS = 10
# A peer that vanished without a word is noticed after 30 + 3 * 10 s rather than after two hours.
_LIVENESS = {
    "connect_timeout": str(_CONNECT_TIMEOUT_SECONDS),
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}


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
    """

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    sslmode: str = "prefer"
    sslrootcert: Path | None = None

    def _parameters(self) -> dict[str, str]:
        parameters = {**_LIVENESS, "sslmode": self.sslmode, "application_name": "sim_pipeline"}
        if self.sslrootcert is not None:
            parameters["sslrootcert"] = str(self.sslrootcert)
        return parameters

    @property
    def url(self) -> sa.URL:
        """SQLAlchemy's address of the database; the driver is named, its default may change."""
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
        """A pool of at most five connections, each tested before it is handed out."""
        return sa.create_engine(self.url, pool_size=2, max_overflow=3, pool_pre_ping=True)

    def reachable(self) -> bool:
        """Tell whether the database can be connected to now."""
        try:
            with self.engine.connect():
                return True
        except sa.exc.OperationalError:
            return False

    def bulk_connection(self) -> adbc.Connection:
        """Open a connection for COPY of Arrow data; the caller closes it."""
        address = (
            f"postgresql://{quote(self.user, safe='')}:{quote(self.password, safe='')}"
            f"@{self.host}:{self.port}/{quote(self.database, safe='')}"
        )
        return adbc.connect(f"{address}?{urlencode(self._parameters(), quote_via=quote)}")
