"""The memory of the processes that execute runs. Linux."""

import re
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

_KIBIBYTES_IN_MEBIBYTE = 1024
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)
# A code server forks none: what it spawns is this, and executes a run.
_RUN_WORKER = "from multiprocessing.spawn import spawn_main"
_POLL_SECONDS = 0.5


def peak_memory(pid: int | None = None) -> float:
    """Return the largest resident memory that a process ever had, in MiB.

    Args:
        pid: of the process; None for this one.

    Raises:
        OSError: there is no such process.
        ValueError: it has no memory any more.
    """
    # Not getrusage: its figure begins with that of the process that started this one.
    status = Path(f"/proc/{pid or 'self'}/status").read_text(encoding="ascii", errors="replace")
    peak = _PEAK.search(status)
    if peak is None:
        raise ValueError(f"process {pid} has no memory")
    return int(peak[1]) / _KIBIBYTES_IN_MEBIBYTE


class RunWorkers:
    """Looks at the run workers that descend from this process, while the context lasts.

    Attributes:
        peaks: the largest resident memory of each so far, in MiB, by pid. What a worker takes in
            its last half second may be missed.
    """

    def __init__(self) -> None:
        self.peaks: dict[int, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="run workers", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        this = psutil.Process()
        while not self._ended.wait(_POLL_SECONDS):
            for process in this.children(recursive=True):
                try:
                    if any(_RUN_WORKER in word for word in process.cmdline()):
                        self.peaks[process.pid] = peak_memory(process.pid)
                except (psutil.Error, OSError, ValueError):  # gone meanwhile
                    continue
