"""Operating-system processes: find those of a directory, tell whether they live, end them."""

import os
import signal
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import psutil  # type: ignore[import-untyped]

_POLL_SECONDS = 0.02


def clean_environment(additions: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment for a server: what it needs, none of our settings and secrets."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "TZ") if name in os.environ}
    return {**kept, "LANG": "C.UTF-8", **(additions or {})}


def processes_in(directory: Path, names: Collection[str]) -> list[psutil.Process]:
    """Find the live processes called one of `names` that work in `directory`.

    A server is recognised by its working directory and not by a number in a pid file alone:
    after a reboot that number belongs to somebody else.
    """
    found = []
    for process in psutil.process_iter():
        try:
            if process.name() in names and is_alive(process) and process.cwd() == str(directory):
                found.append(process)
        except psutil.Error:  # gone meanwhile, or somebody else's
            continue
    return found


def is_alive(process: psutil.Process) -> bool:
    """Tell whether the process still runs; one that only waits to be reaped does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_gone(processes: Sequence[psutil.Process], timeout: float) -> bool:
    """Wait up to `timeout` seconds for all `processes` to end; tell whether they did."""
    deadline = time.monotonic() + timeout
    while any(is_alive(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    for process in processes:
        if isinstance(process, psutil.Popen):
            process.wait()  # ours: reap it
    return True


def end(processes: Sequence[psutil.Process], steps: Sequence[tuple[signal.Signals, float]]) -> bool:
    """End processes, from the friendliest signal to the last.

    Args:
        processes: What to end.
        steps: Signals in the order to send them, each with the seconds to wait after it.

    Returns:
        Whether all of them ended.
    """
    for number, timeout in steps:
        for process in processes:
            if is_alive(process):
                try:
                    process.send_signal(number)
                except psutil.NoSuchProcess:
                    continue
        if wait_gone(processes, timeout):
            return True
    return not processes
