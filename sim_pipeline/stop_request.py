"""Ctrl-C and SIGTERM as an event to wait for."""

import signal
import threading


class StopRequest:
    """Records Ctrl-C or SIGTERM. It interrupts nothing: callers check it or wait for it."""

    def __init__(self) -> None:
        self._event = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._event.set())

    def __bool__(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for a stop request for at most `seconds`; return whether one came."""
        return self._event.wait(seconds)
