"""Peak memory of run workers. Linux only."""

import re
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

_KIBIBYTES_IN_MEBIBYTE = 1024
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)
_FORK_SERVER = "from multiprocessing.forkserver import main"
_POLL_SECONDS = 0.5


def peak_memory(pid: int | None = None) -> float:
    """Return the peak resident memory of a process, in MiB.

    Args:
        pid: the process id; None for this process.

    Raises:
        OSError: the process does not exist.
        ValueError: the process has ended and released its memory.
    """
    # Not getrusage, whose value starts with the peak of the parent process.
    status = Path(f"/proc/{pid or 'self'}/status").read_text(encoding="ascii", errors="replace")
    peak = _PEAK.search(status)
    if peak is None:
        raise ValueError(f"process {pid} has ended")
    return int(peak[1]) / _KIBIBYTES_IN_MEBIBYTE


def is_run_worker(process: psutil.Process) -> bool:
    """Return whether a process executes a run: the fork server of a code server forked it.

    Raises:
        psutil.Error: the process has ended.
    """
    family = (process, process.parent())
    return all(member and _FORK_SERVER in " ".join(member.cmdline()) for member in family)


class RunWorkers:
    """Watches the run workers among this process's descendants while the context lasts.

    Attributes:
        peaks: peak resident memory of each worker, in MiB, by pid. It may miss the last half second
            of a worker.
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
                    if is_run_worker(process):
                        self.peaks[process.pid] = peak_memory(process.pid)
                except (psutil.Error, OSError, ValueError):  # it has ended
                    continue
