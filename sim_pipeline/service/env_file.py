"""Creates the settings file `.env` in a fresh checkout."""

import os
import re
import secrets
from pathlib import Path

from sim_pipeline.errors import ServiceError

_EMPTY_PASSWORD = re.compile(r"^(\w+_PASSWORD)=$", flags=re.MULTILINE)


def ensure_env_file(directory: Path) -> Path | None:
    """Create `.env` from `.env.sample` with generated passwords, unless it exists.

    Only its owner can read the file.

    Returns:
        The file's path if this call created it, else None.

    Raises:
        ServiceError: the file cannot be created.
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
        raise ServiceError(f"{file} cannot be created: {error.strerror}") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    return file
