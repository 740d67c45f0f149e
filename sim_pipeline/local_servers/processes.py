"""Operating-system processes: run them, find those of a directory, end them."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

Process = psutil.Process
"""A process of this machine; what `launch` returns is one, and a child of ours."""

_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class RunAs:
    """Who a process is run as: a prefix for its command and, or, another user and group."""

    prefix: tuple[str, ...] = ()
    user: int | None = None
    group: int | None = None


CURRENT_USER = RunAs()


def clean_environment(additions: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment for a server: what it needs, none of our settings and secrets."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    return {**kept, "LANG": "C.UTF-8", **(additions or {})}


def run(
    command: Sequence[str],
    *,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
    identity: RunAs = CURRENT_USER,
    script: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, whatever its exit status.

    Args:
        command: The program and its arguments.
        directory: Where it runs; where we are by default.
        environment: All of its environment; a clean one by default.
        identity: Whom it runs as.
        script: What it reads from its input.

    Returns:
        Its exit status and what it wrote.

    Raises:
        OSError: If it cannot be run.
    """
    return subprocess.run(  # noqa: S603 - the commands are this package's own
        [*identity.prefix, *command],
        check=False,
        input=script,
        capture_output=True,
        text=True,
        errors="replace",
        cwd=directory,
        env=clean_environment() if environment is None else environment,
        user=identity.user,
        group=identity.group,
        extra_groups=None if identity.user is None else [],
        start_new_session=True,
    )


def launch(
    command: Sequence[str],
    *,
    directory: Path,
    output: Path,
    environment: Mapping[str, str] | None = None,
    identity: RunAs = CURRENT_USER,
) -> Process:
    """Start a server in a session of its own, where the terminal's Ctrl-C does not reach it.

    Args:
        command: The program and its arguments.
        directory: Where it runs, and by which `processes_in` finds it.
        output: File to append what it writes to.
        environment: All of its environment; a clean one by default.
        identity: Whom it runs as.

    Raises:
        OSError: If it cannot be run.
    """
    with output.open("ab") as log:
        return psutil.Popen(
            [*identity.prefix, *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=directory,
            env=clean_environment() if environment is None else environment,
            user=identity.user,
            group=identity.group,
            extra_groups=None if identity.user is None else [],
            start_new_session=True,
        )


def processes_in(directory: Path, names: Collection[str]) -> list[Process]:
    """Find the live processes called one of `names` that work in or below `directory`.

    A server is recognised by its working directory, not by a number in a file: after a reboot
    that number is somebody else's.
    """
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.name() in names
                and is_alive(process)
                and Path(process.cwd()).is_relative_to(directory)
            ):
                found.append(process)
        except psutil.Error:  # gone meanwhile, or somebody else's
            continue
    return found


def is_alive(process: Process) -> bool:
    """Tell whether the process still runs; one that only waits to be reaped does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def end(processes: Collection[Process], steps: Sequence[tuple[signal.Signals, float]]) -> bool:
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
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
        if _wait_gone(processes, timeout):
            return True
    return False


def _wait_gone(processes: Collection[Process], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while any(is_alive(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        # Not psutil.wait_procs: of another's child, which nobody may reap, it never sees the end.
        time.sleep(_POLL_SECONDS)
    for process in processes:
        if isinstance(process, psutil.Popen):
            process.wait()  # a child of ours is to be reaped
    return True
