"""Operating system processes: run them, find those of a directory, stop them."""

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
"""A process on this machine. `launch` returns one that is a child of this process."""

_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class RunAs:
    """The user that a process runs as: a command prefix, or another user and group."""

    prefix: tuple[str, ...] = ()
    user: int | None = None
    group: int | None = None


CURRENT_USER = RunAs()


def clean_environment(additions: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a minimal environment for a server, without the pipeline's settings and secrets."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    return {**kept, "LANG": "C.UTF-8", **(additions or {})}


def run(
    command: Sequence[str],
    *,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
    run_as: RunAs = CURRENT_USER,
    script: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run a program and wait until it exits.

    Args:
        command: The program and its arguments.
        directory: Its working directory; by default that of this process.
        environment: Its whole environment; by default `clean_environment()`.
        run_as: The user it runs as.
        script: Text for its standard input.

    Returns:
        Its exit status, which may be any, and its output.

    Raises:
        OSError: If it cannot be run.
    """
    return subprocess.run(  # noqa: S603 - only this package calls it
        [*run_as.prefix, *command],
        check=False,
        input=script,
        capture_output=True,
        text=True,
        errors="replace",
        cwd=directory,
        env=clean_environment() if environment is None else environment,
        user=run_as.user,
        group=run_as.group,
        extra_groups=None if run_as.user is None else [],
        start_new_session=True,
    )


def launch(
    command: Sequence[str],
    *,
    directory: Path,
    output: Path,
    environment: Mapping[str, str] | None = None,
    run_as: RunAs = CURRENT_USER,
) -> Process:
    """Start a server in its own session, so that Ctrl-C in the terminal does not reach it.

    Args:
        command: The program and its arguments.
        directory: Its working directory, by which `processes_in` finds it.
        output: File to which its output is appended.
        environment: Its whole environment; by default `clean_environment()`.
        run_as: The user it runs as.

    Raises:
        OSError: If it cannot be run.
    """
    with output.open("ab") as log:
        return psutil.Popen(
            [*run_as.prefix, *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=directory,
            env=clean_environment() if environment is None else environment,
            user=run_as.user,
            group=run_as.group,
            extra_groups=None if run_as.user is None else [],
            start_new_session=True,
        )


def processes_in(directory: Path, names: Collection[str]) -> list[Process]:
    """Find live processes by their name and their working directory.

    A PID file would not do: after a reboot its number may be that of another program.

    Args:
        directory: The processes work in it or below it.
        names: The names that the processes may have.
    """
    found = []
    # Not the objects of an earlier iteration: their pids may belong to other processes.
    psutil.process_iter.cache_clear()
    for process in psutil.process_iter():
        try:
            if (
                process.name() in names
                and is_alive(process)
                and Path(process.cwd()).is_relative_to(directory)
            ):
                found.append(process)
        except psutil.Error:  # it has exited, or belongs to another user
            continue
    return found


def is_alive(process: Process) -> bool:
    """Return whether the process still runs. A zombie does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def stop_processes(
    processes: Collection[Process], steps: Sequence[tuple[signal.Signals, float]]
) -> bool:
    """Stop processes with signals of increasing severity.

    Args:
        processes: The processes to stop.
        steps: The signals in order, each with the time to wait after it [s].

    Returns:
        Whether all of them have exited.
    """
    for number, timeout in steps:
        for process in processes:
            if is_alive(process):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
        if _await_exit(processes, timeout):
            return True
    return False


def _await_exit(processes: Collection[Process], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while any(is_alive(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        # psutil.wait_procs does not count a zombie as exited if another process is its parent.
        time.sleep(_POLL_SECONDS)
    for process in processes:
        if isinstance(process, psutil.Popen):
            process.wait()  # reap it
    return True
