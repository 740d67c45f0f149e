"""Silences pika's log messages about failures that we report as our own errors."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_PIKA = logging.getLogger("pika")
_lock = threading.Lock()
_users = 0


@contextmanager
def quiet_pika() -> Iterator[None]:
    """Silence pika below CRITICAL within the block, in every thread.

    pika logs each failed attempt several times with a traceback, and also raises it. It warns about
    a missing queue, which we then declare. At DEBUG it logs a dozen lines per message.

    A level set explicitly on the logger `pika` is kept.
    """
    global _users  # noqa: PLW0603 - loggers are global, so is the number of blocks
    with _lock:
        silence = _PIKA.level == logging.NOTSET or _users > 0
        if silence:
            _users += 1
            _PIKA.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        if silence:
            with _lock:
                _users -= 1
                if _users == 0:
                    _PIKA.setLevel(logging.NOTSET)
