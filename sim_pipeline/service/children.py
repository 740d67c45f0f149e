"""The service's child processes: started, their output relayed, watched, ended without a trace."""

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
from types import TracebackType
from typing import IO, Self

import psutil

from sim_pipeline.errors import ServiceError
from sim_pipeline.local_servers.processes import end
from sim_pipeline.stop_request import StopRequest

# Each process of the service carries the service's directory in its environment, run workers
# included, so that whatever is left of it can be told from anybody else's.
_MARK = "SIM_PIPELINE_SERVICE"

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# The head of a line of Dagster's: when, which logger, how grave.
_HEAD = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+"
    r" - (?P<logger>\S+) - (?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) - "
)
# How a process begins to tell of an error that it did not expect.
_UNCAUGHT = ("Traceback (most recent call last)", "Exception in thread ")
# What Dagster's daemons say of themselves, over and over, where nothing comes of it for anybody.
# That a schedule does not catch up is said of Dagster's ticks: each of ours looks back by itself.
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
# Of a backfill, the daemon names all partitions several times; these lines say how far it is.
_BACKFILL_DAEMON = "dagster.daemon.BackfillDaemon"
_OF_A_BACKFILL = re.compile(r"Submitted run |Asset backfill \w+ completed ")
_POLL_SECONDS = 0.2
# A code server waits for its run workers, and a daemon for its tick, before they go.
_SHUTDOWN = ((signal.SIGTERM, 15.0), (signal.SIGKILL, 5.0))

logger = logging.getLogger(__name__)


class Child:
    """A child process in a session of its own: Ctrl-C in the terminal does not reach it."""

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
            # As `surroundings` has them write, whatever the locale of the terminal is.
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        threading.Thread(
            target=_relay, args=(name, self.process.stdout), name=f"relay-{name}", daemon=True
        ).start()

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        status: int | None = self.process.poll()
        return status


class Children:
    """The processes of one service; leaving the context ends them and all that they started."""

    def __init__(self, directory: Path, environment: Mapping[str, str], stop: StopRequest) -> None:
        """Prepare to start programs.

        Args:
            directory: of the service. The programs work in it, where no `.env` lies: Dagster
                would read that itself, and let it win over the environment.
            environment: of the programs.
            stop: ends every waiting.
        """
        self._directory = directory
        self._environment = {**environment, _MARK: str(directory)}
        self._stop = stop
        self._programs: list[Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        end([program.process for program in reversed(self._programs)], _SHUTDOWN)
        end_marked(self._directory)

    def start(self, name: str, *arguments: str) -> None:
        """Start a module with this very Python; its end, before ours, is an error."""
        self._programs.append(self._run(name, arguments))

    def run(self, name: str, *arguments: str, seconds: float) -> bool:
        """Run a module to its end; tell whether it succeeded within so many seconds.

        If a stop was asked for meanwhile, it is not waited for, and has not failed.
        """
        program = self._run(name, arguments)
        self.await_condition(lambda: program.status is not None, f"{name} to end", seconds)
        return program.status == 0 or bool(self._stop)

    def await_condition(self, met: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait until a condition is met or a stop was asked for.

        Raises:
            ServiceError: a program ended meanwhile, or the time is over.
        """
        deadline = time.monotonic() + seconds
        while not met() and not self._stop.wait(_POLL_SECONDS):
            self._all_run()
            if time.monotonic() > deadline:
                raise ServiceError(f"waited {seconds:g} s for {what}, in vain; see the log")

    def watch(self) -> None:
        """Return when a stop was asked for.

        Raises:
            ServiceError: a program ended by itself.
        """
        while not self._stop.wait(_POLL_SECONDS):
            if os.getpid() == 1:
                self._reap_orphans()
            self._all_run()

    def _reap_orphans(self) -> None:
        """Let go the ended processes that were left to this one, as to process 1 they are.

        In a container no other init does. Ours are left for their owners to ask after.
        """
        ours = {program.process.pid for program in self._programs}
        with contextlib.suppress(ChildProcessError):  # there is no child at all
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if ended.si_pid in ours:
                    return
                os.waitpid(ended.si_pid, os.WNOHANG)

    def _run(self, name: str, arguments: Sequence[str]) -> Child:
        return Child(name, [sys.executable, "-m", *arguments], self._environment, self._directory)

    def _all_run(self) -> None:
        for program in self._programs:
            if program.status is not None:
                raise ServiceError(f"{program.name} ended by itself, with status {program.status}")


def end_marked(directory: Path) -> None:
    """End what is left of the service of a directory, this process excepted."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(_MARK) == str(directory):
                found.append(process)
        except (psutil.Error, OSError):  # gone meanwhile, or somebody else's
            continue
    if found:
        logger.info("Ending %s processes left over", len(found))
        end(found, _SHUTDOWN)


def _relay(name: str, output: IO[str]) -> None:
    """Log a program's lines, each at the level that the line's head, or the last one, names.

    A daemon's housekeeping is DEBUG. An error that a program did not expect, which has no head, is
    logged as one.
    """
    level, of_a_run = logging.INFO, False
    for line in output:
        text = _COLOUR.sub("", line).rstrip()
        head = _HEAD.match(text)
        if head:
            level = logging.getLevelNamesMapping()[head["level"]]
            of_a_run = head["logger"] == "dagster"
            text = text[head.end() :]
            detail = head["logger"] == _BACKFILL_DAEMON and not _OF_A_BACKFILL.match(text)
            if _HOUSEKEEPING.match(text) or (detail and level == logging.INFO):
                level = logging.DEBUG
        elif level < logging.ERROR and text.startswith(_UNCAUGHT):
            # Not of the line before, which may be one that nobody is to see.
            level, of_a_run = logging.ERROR, False
        if text:
            # A run writes its lines to LOG_FILE by itself; here they are for the console only.
            logger.log(level, "%-9s %s", name, text, extra={"console_only": of_a_run})
