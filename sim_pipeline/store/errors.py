"""What can go wrong between here and PostgreSQL.

Every error says what happened, in which database, and what to do about it; none holds the
password. `retryable` tells the caller how to go on: whether the same call may succeed later with
nobody doing anything here.
"""

from typing import ClassVar


class StoreError(Exception):
    """The database could not be used; what was not committed is not stored."""

    retryable: ClassVar[bool]
    """Whether trying again later, with nothing changed here, can succeed."""


class StoreUnreachableError(StoreError):
    """No connection, or none any more: refused, lost, starting, stopping, or all slots taken."""

    retryable = True


class StoreTlsError(StoreError):
    """No trust: the certificate, its host name or the CA file is wrong, or no TLS is spoken."""

    retryable = False


class StoreAccessRefusedError(StoreError):
    """The role, its password, its rights or the name of the database is wrong."""

    retryable = False


class StoreUnfitError(StoreError):
    """The server, the database or a pooler before it is not what the pipeline needs."""

    retryable = False


class SchemaError(StoreError):
    """A table, a view or a column is missing: the migrations have not been run."""

    retryable = False


class StoreNotWritableError(StoreError):
    """The server has no disk or memory left, or is read-only for now, as a standby is."""

    retryable = True


class TransactionAbortedError(StoreError):
    """The server gave up a transaction for another one's sake: a deadlock, a lock, a time limit."""

    retryable = True


class StatementRefusedError(StoreError):
    """The server refused a statement for a reason that has no error of its own here."""

    retryable = False
