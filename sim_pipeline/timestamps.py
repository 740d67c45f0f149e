"""ISO 8601 timestamps, read from forms and arguments and written in UTC; durations as text."""

from datetime import UTC, datetime
from typing import Final

ALLOWED: Final = (
    "an ISO 8601 date or time, UTC unless it names its zone,"
    " such as 2026-01-01 or 2026-01-01T06:00:00Z"
)
"""What `parse_timestamp` accepts, for error messages and descriptions."""


def parse_timestamp(text: str) -> datetime:
    """Return a date or time as an instant in UTC; a date is its midnight.

    Raises:
        ValueError: the text is neither; the message has it and what is allowed.
    """
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r}: allowed is {ALLOWED}") from None


def parse_optional_timestamp(text: str) -> datetime | None:
    """Return the instant, or None for an empty text, which means "no bound" in a form.

    Raises:
        ValueError: see `parse_timestamp`.
    """
    return parse_timestamp(text) if text else None


def format_timestamp(timestamp: datetime, timespec: str = "auto") -> str:
    """Return an instant as ISO 8601 in UTC with a Z, such as `2026-01-01T06:00:00Z`.

    Args:
        timestamp: aware, in any zone.
        timespec: precision, as for `datetime.isoformat`. "auto" writes fractions of a second only
            if there are any.

    Raises:
        ValueError: the timestamp is naive.
    """
    if timestamp.tzinfo is None:
        raise ValueError(f"timestamp must have a time zone, {timestamp.isoformat()} has none")
    return timestamp.astimezone(UTC).replace(tzinfo=None).isoformat(timespec=timespec) + "Z"


def format_duration(seconds: float) -> str:
    """Return a duration [s] as text: `42 s`, `1:05 min` or `2:00 h`."""
    whole = round(seconds)
    if whole < 60:  # noqa: PLR2004 - seconds of a minute
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:  # noqa: PLR2004 - minutes of an hour
        return f"{minutes}:{rest:02} min"
    return f"{minutes // 60}:{minutes % 60:02} h"
