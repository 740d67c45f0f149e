"""The service's child processes: starts them, relays their output, watches them, stops them."""

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Self

import psutil

from sim_pipeline.errors import ServiceError
from sim_pipeline.local_servers.processes import stop_processes
from sim_pipeline.stop_request import StopRequest

# Every process of the service, run workers included, has the service's directory in its
# environment. By this variable the next start finds processes that a killed service left running.
_MARK = "SIM_PIPELINE_SERVICE"

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# The prefix of Dagster's log lines: time, logger, level.
_PREFIX = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+"
    r" - (?P<logger>\S+) - (?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) - "
)
# The beginning of the output of an unhandled exception.
_UNCAUGHT = ("Traceback (most recent call last)", "Exception in thread ")
# Messages that Dagster's daemons repeat and that no reader can act on. "not trying to catch up" is
# about Dagster's own catch-up of missed ticks; our schedule repairs gaps at each tick.
_HOUSEKEEPING = re.compile(
    r"Instance is configured with the following daemons: "
    r"|No cursor for event type DagsterEventType\.\w+, ignoring older events"
    r"|Priority sorting and checking tag concurrency limits for queued runs"
    r"|Collected \d+ runs for monitoring"
    r"|Checking run "
    r"|Received interrupt, shutting down daemon threads"
    r"|Daemon threads shut down"
    r"|\w+ has no partition set, so not trying to catch up"
)
# The backfill daemon lists all partitions several times. Only these lines report progress.
_BACKFILL_DAEMON = "dagster.daemon.BackfillDaemon"
_BACKFILL_PROGRESS = re.compile(r"Submitted run |Asset backfill \w+ completed ")
_POLL_SECONDS = 0.2
# On SIGTERM a code server first waits for its run workers, and a daemon for its current tick.
_SHUTDOWN = ((signal.SIGTERM, 15.0), (signal.SIGKILL, 5.0))

logger = logging.getLogger(__name__)


class Child:
    """A child process in its own session, so that Ctrl-C in the terminal does not reach it."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], directory: Path
    ) -> None:
        self.name = name
        self.process = psutil.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=directory,
            # `surroundings` makes Python write UTF-8 whatever the locale is.
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        threading.Thread(
            target=_relay, args=(name, self.process.stdout), name=f"relay-{name}", daemon=True
        ).start()

    @property
    def status(self) -> int | None:
        """The exit status; None while the process runs."""
        status: int | None = self.process.poll()
        return status


class Children:
    """The child processes of one service. Leaving the context stops them and their descendants."""

    def __init__(self, directory: Path, environment: Mapping[str, str], stop: StopRequest) -> None:
        """Prepare to start children.

        Args:
            directory: the service's data directory and the children's working directory. It must
                not hold a `.env`: Dagster would read it and prefer it to the environment.
            environment: the children's environment.
            stop: a stop request ends every wait.
        """
        self._directory = directory
        self._environment = {**environment, _MARK: str(directory)}
        self._stop = stop
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        stop_processes([child.process for child in reversed(self._children)], _SHUTDOWN)
        end_marked(self._directory)

    def start(self, name: str, *arguments: str) -> None:
        """Start a Python module with this interpreter; it is to run until the service stops."""
        self._children.append(self._run(name, arguments))

    def run(self, name: str, *arguments: str, timeout: float) -> bool:
        """Run a Python module and wait until it exits.

        Args:
            name: the module's name in log lines.
            arguments: the module and its arguments.
            timeout: how long to wait for it [s].

        Returns:
            Whether it succeeded. It is ended, and False returned, if it takes longer. True as well
            if a stop request ended the wait.

        Raises:
            ServiceError: another child exited.
        """
        child = self._run(name, arguments)
        deadline = time.monotonic() + timeout
        while child.status is None and not self._stop.wait(_POLL_SECONDS):
            self.raise_if_exited()
            if time.monotonic() > deadline:
                stop_processes([child.process], _SHUTDOWN)
                return False
        return child.status == 0 or bool(self._stop)

    def await_condition(self, met: Callable[[], bool], failure: str, timeout: float) -> None:
        """Wait until a condition is met or a stop is requested.

        Args:
            met: tells whether the condition is met.
            failure: what did not happen, for the error message, such as "the UI did not answer".
            timeout: how long to wait [s].

        Raises:
            ServiceError: a child exited, or the condition was not met in time.
        """
        deadline = time.monotonic() + timeout
        while not met() and not self._stop.wait(_POLL_SECONDS):
            self.raise_if_exited()
            if time.monotonic() > deadline:
                raise ServiceError(f"{failure} within {timeout:g} s; see the log")

    def watch(self) -> None:
        """Watch the children until a stop is requested.

        Raises:
            ServiceError: a child exited.
        """
        while not self._stop.wait(_POLL_SECONDS):
            if os.getpid() == 1:
                self._reap_orphans()
            self.raise_if_exited()

    def _reap_orphans(self) -> None:
        """Reap orphaned processes that the kernel has given to this one as process 1.

        A container has no other init. Children of our own are reaped by their owners.
        """
        ours = {child.process.pid for child in self._children}
        with contextlib.suppress(ChildProcessError):  # this process has no children
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if ended.si_pid in ours:
                    return
                os.waitpid(ended.si_pid, os.WNOHANG)

    def _run(self, name: str, arguments: Sequence[str]) -> Child:
        return Child(name, [sys.executable, "-m", *arguments], self._environment, self._directory)

    def raise_if_exited(self) -> None:
        """Raise a `ServiceError` if a child that is to run has exited."""
        for child in self._children:
            if child.status is not None:
                raise ServiceError(f"{child.name} exited unexpectedly with status {child.status}")


def end_marked(directory: Path) -> None:
    """Stop all other processes that belong to the service of this directory."""
    found = []
    # Not the objects of an earlier iteration: their pids may belong to other processes.
    psutil.process_iter.cache_clear()
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(_MARK) == str(directory):
                found.append(process)
        except (psutil.Error, OSError):  # it has exited, or belongs to another user
            continue
    if found:
        logger.info("Stopping leftover processes: %s", len(found))
        stop_processes(found, _SHUTDOWN)


def _relay(name: str, output: IO[str]) -> None:
    """Log each line that a child writes, at the level that the line's prefix names.

    A line without a prefix gets the level of the line before. Housekeeping of Dagster's daemons is
    logged at DEBUG, an unhandled exception at ERROR.
    """
    level, of_a_run = logging.INFO, False
    for line in output:
        text = _COLOUR.sub("", line).rstrip()
        prefix = _PREFIX.match(text)
        if prefix:
            level = logging.getLevelNamesMapping()[prefix["level"]]
            of_a_run = prefix["logger"] == "dagster"
            text = text[prefix.end() :]
            detail = prefix["logger"] == _BACKFILL_DAEMON and not _BACKFILL_PROGRESS.match(text)
            if _HOUSEKEEPING.match(text) or (detail and level == logging.INFO):
                level = logging.DEBUG
        elif level < logging.ERROR and text.startswith(_UNCAUGHT):
            # The level of the line before may hide it.
            level, of_a_run = logging.ERROR, False
        if text:
            # A run's process writes its own lines to LOG_FILE. Here they go to the console only.
            logger.log(level, "%-9s %s", name, text, extra={"console_only": of_a_run})
