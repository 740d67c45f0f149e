"""From what the drivers and PostgreSQL say to the errors of `errors.py`."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import adbc_driver_manager as adbc
import psycopg2
import sqlalchemy as sa

from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.errors import (
    SchemaError,
    StatementRefusedError,
    StoreAccessRefusedError,
    StoreError,
    StoreNotWritableError,
    StoreTlsError,
    StoreUnfitError,
    StoreUnreachableError,
    TransactionAbortedError,
)

# By SQLSTATE or, where all of a class are alike, by its first two characters.
_KINDS: Final[dict[str, type[StoreError]]] = {
    "08": StoreUnreachableError,  # connection exception
    "25P03": StoreUnreachableError,  # idle in a transaction for too long
    "53300": StoreUnreachableError,  # too many connections
    "57P01": StoreUnreachableError,  # shutdown
    "57P02": StoreUnreachableError,  # crash
    "57P03": StoreUnreachableError,  # starting up
    "57P05": StoreUnreachableError,  # idle for too long
    "28": StoreAccessRefusedError,  # invalid authorization
    "3D": StoreAccessRefusedError,  # no such database
    "42501": StoreAccessRefusedError,  # insufficient privilege
    "57P04": StoreAccessRefusedError,  # database dropped
    "3F": SchemaError,  # no such schema
    "42703": SchemaError,  # no such column
    "42704": SchemaError,  # no such object
    "42804": SchemaError,  # another type
    "42883": SchemaError,  # no such function
    "42P01": SchemaError,  # no such table or view
    "42P10": SchemaError,  # no unique constraint for ON CONFLICT
    "25006": StoreNotWritableError,  # read-only
    "53": StoreNotWritableError,  # disk full, out of memory
    "58": StoreNotWritableError,  # input or output failed
    "40": TransactionAbortedError,  # deadlock, serialization failure
    "55P03": TransactionAbortedError,  # lock not available
    "57014": TransactionAbortedError,  # canceled, by a time limit or by hand
}

_MESSAGES: Final[dict[type[StoreError], str]] = {
    StoreUnreachableError: (
        "no connection to {postgres}: {words}; see that PostgreSQL runs there and takes"
        " connections, or correct host and port"
    ),
    StoreTlsError: (
        "no trust in {postgres}: {words}; with sslmode {sslmode}, the server must speak TLS, host"
        " be the name of its certificate, and {trusted} hold the authority that signed it"
    ),
    StoreAccessRefusedError: (
        "{postgres} refused user {user!r}: {words}; check the user, its password and its rights,"
        " and that the database exists"
    ),
    StoreUnfitError: "{postgres} is not fit for this pipeline: {words}",
    SchemaError: "{postgres} lacks what this version needs: {words}; run `make migrate`",
    StoreNotWritableError: (
        "{postgres} takes no data: {words}; free its disk or memory, or let it accept writes"
    ),
    TransactionAbortedError: (
        "{postgres} aborted a transaction: {words}; nothing of it is stored, it can be run again"
    ),
    StatementRefusedError: "{postgres} refused a statement: {words}; its cause stands below",
}

# While connecting, both drivers have libpq's text only: a paragraph for each address of the host.
_CONNECTING: Final = re.compile(r"connection to server .*? failed: (?:FATAL: +)?(.*)")
_NO_TRUST: Final = re.compile(
    r"certificate|does not support SSL|SSL error: (?!unexpected eof|SSL_ERROR_SYSCALL)"
)
_NO_ACCESS: Final = re.compile(
    r"authentication failed|no password supplied|pg_hba\.conf|permission denied"
    r"|(?:role|database|user) \".*\" (?:does not exist|is not permitted|is not currently accepting)"
)
# A pooler's answer to what every session of ours asks for, see `SESSION_SETTINGS`.
_NO_OPTIONS: Final = re.compile(r"unsupported startup parameter|command-line options")
_SEVERITY: Final = re.compile(r"(?:ERROR|FATAL|PANIC): +(.*)")


@contextmanager
def translate_db_errors(postgres: Postgres) -> Iterator[None]:
    """Have what the drivers raise in a block that uses the database raised as a `StoreError`.

    For the outer edge of the store's use, where the database that the block talks to is known.

    Raises:
        StoreError: the block raised an error of psycopg2, SQLAlchemy about psycopg2, or ADBC. All
            others pass.
    """
    try:
        yield
    except (sa.exc.DBAPIError, psycopg2.Error, adbc.Error) as error:
        raise store_error(postgres, error) from error


def store_error(postgres: Postgres, error: Exception) -> StoreError:
    """Say of an error of a driver what it means and what to do about it."""
    if isinstance(error, sa.exc.DBAPIError) and isinstance(error.orig, Exception):
        error = error.orig
    text = str(error)
    answers = _CONNECTING.findall(text)
    kind = _kind(error, answers)
    said = answers or _SEVERITY.findall(text)[:1] or text.strip().splitlines()[:1]
    return kind(
        _MESSAGES[kind].format(
            postgres=postgres,
            user=postgres.user,
            sslmode=postgres.sslmode,
            trusted=postgres.sslrootcert or "libpq's default CA file",
            words="; ".join(dict.fromkeys(said)) or type(error).__name__,
        )
    )


def _kind(error: Exception, answers: list[str]) -> type[StoreError]:
    state = getattr(error, "pgcode", None) or getattr(error, "sqlstate", None)
    if state is not None:
        return _KINDS.get(state) or _KINDS.get(state[:2]) or StatementRefusedError
    if any(map(_NO_TRUST.search, answers)):
        return StoreTlsError
    if any(map(_NO_OPTIONS.search, answers)):
        return StoreUnfitError
    if any(map(_NO_ACCESS.search, answers)):
        return StoreAccessRefusedError
    # No state and no connection: lost, or closed since. psycopg2 has a bare DatabaseError for some.
    if type(error) is psycopg2.DatabaseError or isinstance(
        error,
        psycopg2.OperationalError
        | psycopg2.InterfaceError
        | adbc.OperationalError
        | adbc.InterfaceError,
    ):
        return StoreUnreachableError
    return StatementRefusedError
