"""Waiting for what is about to be, so that no test sleeps and hopes."""

import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], bool], what: str = "the condition", seconds: float = 30
) -> None:
    """Return once the condition holds; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        # The one poll of the tests, for what another process or server does and does not tell.
        time.sleep(0.01)
