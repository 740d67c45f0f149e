"""Random streams: which random numbers belong to which window, independent of other windows.

Philox 4x64 is a block cipher in counter mode. Its key and counter name a position in a sequence,
and any position can be reached directly. A stream is therefore an address. The key is a digest of
what a family of streams has in common (seed and model). The counter, four 64-bit words, selects
the stream:

    word 0: position in the stream
    word 1: group of slices in the window (`SLICES_PER_STREAM` per stream)
    word 2: window number

What depends on the date only, such as the drift, is hashed instead (`dated`), with keys of its own.
"""

import hashlib

import numpy as np
import numpy.typing as npt

SLICES_PER_STREAM = 64
"""Slices of a window that share a stream. It limits how much of a long window must be in memory at
once. Every simulated number depends on it."""

_WORDS = 4  # 64-bit words per counter position of Philox


def stream_key(purpose: str, *, seed: int, model: str, interval: int = 0) -> npt.NDArray[np.uint64]:
    """Return the Philox key of a family of streams, shape (2,).

    Args:
        purpose: what the streams are used for; different purposes give independent numbers.
        seed: the user's seed, >= 0, of any size.
        model: the model's name.
        interval: length of a window [s], for streams addressed by window number.
    """
    identity = f"{purpose}|{seed}|{interval}|{model}".encode()
    digest = hashlib.blake2b(identity, digest_size=16).digest()
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)


class WindowStreams:
    """The streams of one model's windows.

    One generator moves from stream to stream: that takes 1 us, while a new generator takes 8 us.

    Args:
        key: Philox key, shape (2,), from `stream_key`.
    """

    def __init__(self, key: npt.NDArray[np.uint64]) -> None:
        self._philox = np.random.Philox(key=key, counter=0)
        # buffer_pos is 4: no output of an earlier position is left in the buffer.
        self._state = self._philox.state
        self._counter = np.zeros(_WORDS, dtype=np.uint64)
        self._state["state"] = {"counter": self._counter, "key": key}
        self._generator = np.random.Generator(self._philox)

    def at(self, window: int, chunk: int) -> np.random.Generator:
        """Return the generator at the start of a stream, valid until the next call.

        Args:
            window: window number, >= 0.
            chunk: number of the group of `SLICES_PER_STREAM` slices in the window, >= 0.
        """
        self._counter[1] = chunk
        self._counter[2] = window
        self._philox.state = self._state
        return self._generator
