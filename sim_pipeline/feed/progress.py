"""How far a run is, for whoever watches its log."""

import logging
import time

logger = logging.getLogger(__name__)

_EVERY_SECONDS = 5.0


class Progress:
    """Says every few seconds how many windows are done, how fast it goes and how long it will take.

    What is over within the first few seconds is worth one line, at its end.
    """

    def __init__(self, verb: str, unit: str, total: int) -> None:
        """Begin now.

        Args:
            verb: what is done to windows: "Stored".
            unit: what is made of them, and counted by the second: "rows".
            total: windows to be done.
        """
        self._verb, self._unit, self._total = verb, unit, total
        self._began = self._said = time.monotonic()

    def report(self, done: int, made: int) -> None:
        """Say how far it is, unless that was said just now.

        Args:
            done: windows done so far, those included that were found done.
            made: units made so far.
        """
        now = time.monotonic()
        if now - self._said >= _EVERY_SECONDS:
            self._said = now
            elapsed = now - self._began
            left = _duration(elapsed / done * (self._total - done)) if done else "unknown time"
            self._say(done, made, elapsed, f"{left} left")

    def end(self, done: int, made: int) -> None:
        """Say what was done; the arguments are those of `report`."""
        elapsed = time.monotonic() - self._began
        self._say(done, made, elapsed, f"{_duration(elapsed)} in all")

    def _say(self, done: int, made: int, elapsed: float, time_words: str) -> None:
        logger.info(
            "%s %s of %s windows, %s %s (%s/s), %s",
            self._verb,
            f"{done:,}",
            f"{self._total:,}",
            f"{made:,}",
            self._unit,
            f"{made / max(elapsed, 1e-3):,.0f}",
            time_words,
        )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
