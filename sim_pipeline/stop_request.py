"""Ctrl-C and SIGTERM as something to wait for."""

import signal
import threading


class StopRequest:
    """Ctrl-C or SIGTERM, remembered until somebody looks: it interrupts nothing by itself."""

    def __init__(self) -> None:
        self._event = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._event.set())

    def __bool__(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for it at most so long; tell whether it came."""
        return self._event.wait(seconds)
