"""The delays before a lost connection to RabbitMQ is opened again.

The publisher gives up after `BrokerConfig.attempts` consecutive failures, the consumer never does.
"""

from random import SystemRandom
from typing import Final

_MAX_DOUBLINGS: Final = 16


class ReconnectDelays:
    """Delays that double with each consecutive failure, up to a limit.

    Each is shortened at random by up to a half, so that many clients do not return together.
    """

    def __init__(self, first: float, longest: float) -> None:
        """Set the limits.

        Args:
            first: Delay after the first failure, seconds.
            longest: Longest delay, seconds.
        """
        self._first = first
        self._longest = longest
        self._random = SystemRandom()

    def after(self, failures: int) -> float:
        """Return the delay after a number of consecutive failures, 1 or more, in seconds."""
        doubled: float = self._first * 2 ** min(failures - 1, _MAX_DOUBLINGS)
        return min(doubled, self._longest) * self._random.uniform(0.5, 1.0)
