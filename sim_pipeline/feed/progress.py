"""`Progress`: log lines about how far a run is."""

import logging
import time

from sim_pipeline.timestamps import format_duration

logger = logging.getLogger(__name__)

_LOG_SECONDS = 5.0


class Progress:
    """Logs every few seconds how many windows are done, the rate and the time left.

    A task that ends within the first few seconds logs one line, at its end.
    """

    def __init__(self, verb: str, unit: str, total: int) -> None:
        """Start the clock.

        Args:
            verb: past participle of the task: "Stored".
            unit: plural of what is counted per second: "rows".
            total: number of windows to do.
        """
        self._verb, self._unit, self._total = verb, unit, total
        self._began = self._logged = time.monotonic()

    def report(self, done: int, count: int) -> None:
        """Log the progress, unless that was done within the last few seconds.

        Args:
            done: number of windows done so far, including those skipped.
            count: number of units so far.
        """
        now = time.monotonic()
        if now - self._logged >= _LOG_SECONDS:
            self._logged = now
            elapsed = now - self._began
            left = (
                format_duration(elapsed / done * (self._total - done)) if done else "unknown time"
            )
            self._log(done, count, elapsed, f"{left} left")

    def end(self, done: int, count: int) -> None:
        """Log the result.

        Args:
            done: see `report`.
            count: see `report`.
        """
        elapsed = time.monotonic() - self._began
        self._log(done, count, elapsed, f"{format_duration(elapsed)} in all")

    def _log(self, done: int, count: int, elapsed: float, times: str) -> None:
        logger.info(
            "%s %s of %s windows, %s %s (%s/s), %s",
            self._verb,
            f"{done:,}",
            f"{self._total:,}",
            f"{count:,}",
            self._unit,
            f"{count / max(elapsed, 1e-3):,.0f}",
            times,
        )
