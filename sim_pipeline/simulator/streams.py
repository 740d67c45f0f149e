"""Random streams: which numbers belong to which window, whatever is simulated with it.

Philox 4x64 is a block cipher in counter mode: key and counter name a position, and any position
is reached at once. So a stream is not made but addressed. The key is a digest of what the streams
of a kind have in common (seed and model); the counter, four 64-bit words, says which stream:

    word 0: position in the stream
    word 1: which slices of the window (`SLICES_PER_STREAM` to a stream)
    word 2: window number

What varies with the date alone, drift and incidents, has a key of its own and one or two
counter positions for each day or month, read as raw words.
"""

import hashlib

import numpy as np
import numpy.typing as npt

SLICES_PER_STREAM = 64
"""Slices of a window that share a stream. Part of the numbers' definition: it bounds how much of
the longest window has to be in memory at once."""

_WORDS = 4  # 64-bit words that Philox yields per counter position


def stream_key(purpose: str, *, seed: int, model: str, interval: int = 0) -> npt.NDArray[np.uint64]:
    """Return the Philox key of a family of streams, shape (2,).

    Args:
        purpose: what the streams are for; two purposes share no numbers.
        seed: the user's seed, >= 0, of any size.
        model: the model's name.
        interval: length of a window [s], for streams that are addressed by window number.
    """
    identity = f"{purpose}|{seed}|{interval}|{model}".encode()
    digest = hashlib.blake2b(identity, digest_size=16).digest()
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)


class WindowStreams:
    """The streams of one model's windows, addressed one after another.

    One generator is moved from stream to stream: that takes 1 us where a new one takes 8.

    Args:
        key: Philox key, shape (2,), from `stream_key`.
    """

    def __init__(self, key: npt.NDArray[np.uint64]) -> None:
        self._philox = np.random.Philox(key=key, counter=0)
        # buffer_pos 4 says that no output is left over from an earlier position.
        self._state = self._philox.state
        self._counter = np.zeros(_WORDS, dtype=np.uint64)
        self._state["state"] = {"counter": self._counter, "key": key}
        self._generator = np.random.Generator(self._philox)

    def at(self, window: int, chunk: int) -> np.random.Generator:
        """Return the generator at the beginning of a stream; it is valid until the next call.

        Args:
            window: window number, >= 0.
            chunk: which `SLICES_PER_STREAM` slices of the window, >= 0.
        """
        self._counter[1] = chunk
        self._counter[2] = window
        self._philox.state = self._state
        return self._generator


def dated_uniforms(
    key: npt.NDArray[np.uint64], first: int, count: int, width: int
) -> npt.NDArray[np.float64]:
    """Return uniforms in (0, 1) for ``count`` consecutive dates, shape (count, width).

    A row depends on the key and on its own date number alone, not on ``first`` or ``count``.

    Args:
        key: Philox key, shape (2,), from `stream_key`.
        first: number of the first date (a day's, a month's), >= 0.
        count: how many dates, >= 0.
        width: uniforms a date, a multiple of 4.
    """
    # NumPy's Philox steps its counter before it yields: a position is reached from the one before.
    # The first position of all is left out by beginning at 1.
    bits = np.random.Philox(key=key, counter=first * (width // _WORDS))
    raw = bits.random_raw(count * width).reshape(count, width)
    # 52 bits, shifted by half a step, so that neither 0 nor 1 can occur.
    return ((raw >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
