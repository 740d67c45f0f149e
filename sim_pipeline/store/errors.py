"""`StoreError`: the one error of this package, and its translation from the drivers' errors.

A message says what happened, in which database, and what to do about it. It never holds the
password.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Final

import adbc_driver_manager as adbc
import psycopg2
import sqlalchemy as sa

from sim_pipeline.store.connection import Postgres


class ErrorKind(Enum):
    """The cause of a `StoreError`.

    The value is the template of the error's message; `reason` is the text of the driver or server.
    """

    # Refused, lost, starting, stopping, or all connection slots are taken.
    UNREACHABLE = (
        "no connection to {postgres}: {reason}; check that PostgreSQL runs there and accepts"
        " connections, or correct the host and port"
    )
    TLS = (
        "TLS verification failed for {postgres}: {reason}; with sslmode {sslmode}, the server must"
        " support TLS, the host must match the name in its certificate, and {trusted} must contain"
        " the CA that signed it"
    )
    ACCESS_DENIED = (
        "{postgres} refused user {user!r}: {reason}; check the user, its password and its rights,"
        " and that the database exists"
    )
    # The server, or a pooler in front of it, lacks a feature that the pipeline needs.
    UNSUITABLE = "{postgres} is not fit for this pipeline: {reason}"
    SCHEMA_OUTDATED = "{postgres} lacks what this version needs: {reason}; run `make migrate`"
    # No disk or memory is left, or the server is read-only, as a standby is.
    NOT_WRITABLE = (
        "{postgres} does not accept data: {reason}; free disk space or memory on the server, or"
        " allow writes"
    )
    # A deadlock, a lock that is not available, or a time limit.
    TRANSACTION_ABORTED = (
        "{postgres} aborted a transaction: {reason}; nothing of it is stored, run it again"
    )
    # Every other cause.
    STATEMENT_REFUSED = "{postgres} refused a statement: {reason}; see the cause below"


_RETRYABLE: Final = {
    ErrorKind.UNREACHABLE,
    ErrorKind.NOT_WRITABLE,
    ErrorKind.TRANSACTION_ABORTED,
}


class StoreError(Exception):
    """The database could not be used. Nothing that was not committed is stored.

    Attributes:
        kind: the cause.
    """

    def __init__(self, kind: ErrorKind, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind

    def __str__(self) -> str:
        """Return the message alone."""
        return str(self.args[1])

    @property
    def retryable(self) -> bool:
        """Whether the same call can succeed later although nothing is changed here."""
        return self.kind in _RETRYABLE


# By SQLSTATE, or by its first two characters where all states of a class are alike.
_KINDS: Final = {
    "08": ErrorKind.UNREACHABLE,  # connection exception
    "25P03": ErrorKind.UNREACHABLE,  # idle in a transaction for too long
    "53300": ErrorKind.UNREACHABLE,  # too many connections
    "57P01": ErrorKind.UNREACHABLE,  # shutdown
    "57P02": ErrorKind.UNREACHABLE,  # crash
    "57P03": ErrorKind.UNREACHABLE,  # starting up
    "57P05": ErrorKind.UNREACHABLE,  # idle for too long
    "28": ErrorKind.ACCESS_DENIED,  # invalid authorization
    "3D": ErrorKind.ACCESS_DENIED,  # no such database
    "42501": ErrorKind.ACCESS_DENIED,  # insufficient privilege
    "57P04": ErrorKind.ACCESS_DENIED,  # database dropped
    "3F": ErrorKind.SCHEMA_OUTDATED,  # no such schema
    "42703": ErrorKind.SCHEMA_OUTDATED,  # no such column
    "42704": ErrorKind.SCHEMA_OUTDATED,  # no such object
    "42804": ErrorKind.SCHEMA_OUTDATED,  # another type
    "42883": ErrorKind.SCHEMA_OUTDATED,  # no such function
    "42P01": ErrorKind.SCHEMA_OUTDATED,  # no such table or view
    "42P10": ErrorKind.SCHEMA_OUTDATED,  # no unique constraint for ON CONFLICT
    "25006": ErrorKind.NOT_WRITABLE,  # read-only
    "53": ErrorKind.NOT_WRITABLE,  # disk full, out of memory
    "58": ErrorKind.NOT_WRITABLE,  # input or output failed
    "40": ErrorKind.TRANSACTION_ABORTED,  # deadlock, serialization failure
    "55P03": ErrorKind.TRANSACTION_ABORTED,  # lock not available
    "57014": ErrorKind.TRANSACTION_ABORTED,  # canceled by a time limit or by an administrator
}

# A failed connection has no SQLSTATE in either driver, only libpq's text: a paragraph for each
# address of the host.
_CONNECTING: Final = re.compile(r"connection to server .*? failed: (?:FATAL: +)?(.*)")
_TLS: Final = re.compile(
    r"certificate|does not support SSL|SSL error: (?!unexpected eof|SSL_ERROR_SYSCALL)"
)
_ACCESS_DENIED: Final = re.compile(
    r"authentication failed|no password supplied|pg_hba\.conf|permission denied"
    r"|(?:role|database|user) \".*\" (?:does not exist|is not permitted|is not currently accepting)"
)
# The answer of a pooler that does not accept `options`, see `SESSION_SETTINGS`.
_UNSUITABLE: Final = re.compile(r"unsupported startup parameter|command-line options")
_SEVERITY: Final = re.compile(r"(?:ERROR|FATAL|PANIC): +(.*)")


@contextmanager
def translate_db_errors(postgres: Postgres) -> Iterator[None]:
    """Raise a `StoreError` for each error of a database driver in the block.

    Use it at the outer edge of a use of the store, where it is known which database that is.

    Args:
        postgres: the database that the block uses.

    Raises:
        StoreError: the block raised an error of psycopg2, SQLAlchemy about psycopg2, or ADBC. All
            other errors pass unchanged.
    """
    try:
        yield
    except (sa.exc.DBAPIError, psycopg2.Error, adbc.Error) as error:
        raise _store_error(postgres, error) from error


def _store_error(postgres: Postgres, error: Exception) -> StoreError:
    if isinstance(error, sa.exc.DBAPIError) and isinstance(error.orig, Exception):
        error = error.orig
    text = str(error)
    answers = _CONNECTING.findall(text)
    reasons = answers or _SEVERITY.findall(text)[:1] or text.strip().splitlines()[:1]
    kind = _kind(error, answers)
    message = kind.value.format(
        postgres=postgres,
        user=postgres.user,
        sslmode=postgres.sslmode,
        trusted=postgres.sslrootcert or "libpq's default CA file",
        reason="; ".join(dict.fromkeys(reasons)) or type(error).__name__,
    )
    return StoreError(kind, message)


def _kind(error: Exception, answers: list[str]) -> ErrorKind:
    state = getattr(error, "pgcode", None) or getattr(error, "sqlstate", None)
    if state is not None:
        return _KINDS.get(state) or _KINDS.get(state[:2]) or ErrorKind.STATEMENT_REFUSED
    if any(map(_TLS.search, answers)):
        return ErrorKind.TLS
    if any(map(_UNSUITABLE.search, answers)):
        return ErrorKind.UNSUITABLE
    if any(map(_ACCESS_DENIED.search, answers)):
        return ErrorKind.ACCESS_DENIED
    # No SQLSTATE: the connection is lost, or was closed earlier. For some of these cases psycopg2
    # raises a bare DatabaseError.
    if type(error) is psycopg2.DatabaseError or isinstance(
        error,
        psycopg2.OperationalError
        | psycopg2.InterfaceError
        | adbc.OperationalError
        | adbc.InterfaceError,
    ):
        return ErrorKind.UNREACHABLE
    return ErrorKind.STATEMENT_REFUSED
