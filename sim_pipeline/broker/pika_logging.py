"""Keeps pika quiet about failures that are reported as errors of our own."""

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

    pika logs each failed attempt several times, with a traceback, before it reports it to its
    caller; a missing queue, which is then declared, is a warning to it. And at DEBUG it logs a
    dozen lines a message. None of that helps whoever reads the error that names the cause.

    Who gives the logger `pika` a level by hand wants to see it all, and does.
    """
    global _users  # noqa: PLW0603 - loggers are global; so is the count of those who silence one
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
