"""The file of settings that a fresh checkout does not have yet."""

import os
import re
import secrets
from pathlib import Path

from sim_pipeline.errors import ServiceError

_EMPTY_PASSWORD = re.compile(r"^(\w+_PASSWORD)=$", flags=re.MULTILINE)


def ensure_env_file(directory: Path) -> Path | None:
    """Make `.env` from `.env.sample`, with passwords of its own, unless it is there.

    Only its owner can read it.

    Returns:
        The file, if it was made.

    Raises:
        ServiceError: the directory can't be written.
    """
    sample, file = directory / ".env.sample", directory / ".env"
    if file.exists() or not sample.exists():
        return None
    text = _EMPTY_PASSWORD.sub(
        lambda match: f"{match[1]}={secrets.token_urlsafe(24)}", sample.read_text(encoding="utf-8")
    )
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ServiceError(f"{file} cannot be made: {error.strerror}") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    return file
