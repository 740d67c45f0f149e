"""A moment as a person writes it into a launch form."""

from datetime import datetime


def moment(text: str) -> datetime | None:
    """Return the moment that an ISO 8601 time with its zone names, None for an empty text.

    Raises:
        ValueError: it is no such time; the message names it and what is allowed.
    """
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise ValueError(
            f"{text!r} is no time with a zone: allowed is an ISO 8601 time such as"
            " 2026-11-24T00:00:00Z, or nothing"
        )
    return found
