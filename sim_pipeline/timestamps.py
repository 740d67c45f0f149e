"""A moment as a person writes it: in a launch form, or behind FROM and TO."""

from datetime import UTC, datetime
from typing import Final

ALLOWED: Final = (
    "an ISO 8601 date or time, UTC unless it names its zone,"
    " such as 2026-01-01 or 2026-01-01T06:00:00Z"
)
"""What `moment` reads, for people."""


def parse_timestamp(text: str) -> datetime:
    """Return the moment, in UTC, that a date or time names.

    Raises:
        ValueError: it names none; the message has it and what is allowed.
    """
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r}: allowed is {ALLOWED}") from None


def parse_optional_timestamp(text: str) -> datetime | None:
    """Return the same, or None for an empty text, which in a form stands for no bound.

    Raises:
        ValueError: see `moment`.
    """
    return parse_timestamp(text) if text else None
