"""Ctrl-C, SIGTERM and the end of the terminal as an event to wait for."""

import signal
import threading


class StopRequest:
    """Records Ctrl-C or SIGTERM. It interrupts nothing: callers check it or wait for it."""

    def __init__(self, *, with_terminal: bool = False) -> None:
        """Take over the signals of this process.

        Args:
            with_terminal: also record the end of the terminal, unless `nohup` ignores it.
        """
        self._event = threading.Event()
        numbers = [signal.SIGINT, signal.SIGTERM]
        if with_terminal and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        for number in numbers:
            signal.signal(number, lambda *_: self._event.set())

    def __bool__(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for a stop request for at most `seconds`; return whether one came."""
        return self._event.wait(seconds)
