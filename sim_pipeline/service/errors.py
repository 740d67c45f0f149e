"""The one error the local servers raise: a fault the user can act on, told in one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class ServiceError(Exception):
    """A local server cannot be installed, started, reached or stopped."""


@contextmanager
def file_errors_as_service_errors(service: str, directory: Path) -> Iterator[None]:
    """Turn what the file system refuses (full, read-only, not ours) into a `ServiceError`.

    Args:
        service: Name of the server, as the message shall call it.
        directory: What to name where the operating system's error names no file.

    Raises:
        ServiceError: For any OSError raised inside.
    """
    try:
        yield
    except OSError as error:
        place = error.filename or directory
        raise ServiceError(f"{service}: {error.strerror or error}: {place}") from error


def last_match(text: str, pattern: str) -> str | None:
    """Return group 1 of the last match of `pattern` in a server's output, in one line."""
    matches = re.findall(pattern, text, flags=re.MULTILINE)
    return " ".join(matches[-1].split()) if matches else None
