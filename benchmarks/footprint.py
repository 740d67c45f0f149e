"""Resource use of a running service's processes, and its growth. Linux only.

A process belongs to the service if it descends from the supervisor, or if the service's directory
is in its working directory, command line or environment. This includes processes that have lost
their parent, and zombies. The measures of each kind of process:

processes     number of processes, zombies included.
threads       number of threads. A thread pool grows, up to its fixed size, when more calls than
              ever before come at the same time.
files         open file descriptors, sockets included; for PostgreSQL without `cached files`.
connections   established TCP connections at either end. A PostgreSQL session is a connection of
              one backend; RabbitMQ's are those of its clients, and two between its own processes.
              Counted at the sockets, because asking the servers would open another connection.
memory        resident memory, in MiB. For PostgreSQL: PSS without shared memory. The shared buffers
              count as resident in each process that used them, and fill up to their fixed size as
              the database grows. Memory shared since a fork counts once.
cached files  for PostgreSQL, descriptors of the cluster's files. Each process keeps files open for
              later reads, up to max_files_per_process (1000), and closes the least recently used.
              The number grows by design, so it is shown but not limited.
"""

import contextlib
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.workers import is_run_worker

SUPERVISOR = "supervisor"
CODE_SERVER = "code server"
DAEMON = "daemon"
WEBSERVER = "webserver"
POSTGRESQL = "PostgreSQL"
RABBITMQ = "RabbitMQ"
RUN_WORKER = "run worker"
OTHER = "other"
ALL = "all"

KINDS = (SUPERVISOR, CODE_SERVER, DAEMON, WEBSERVER, POSTGRESQL, RABBITMQ, OTHER, ALL)
"""The kinds that always exist. Run workers exist only during runs."""

MEASURES = ("processes", "threads", "files", "connections", "memory")
CACHED_FILES = "cached files"

# A module or function name in the command line of each kind of Python process.
_PYTHON = {
    "grpc": CODE_SERVER,
    "multiprocessing.resource_tracker": CODE_SERVER,
    "multiprocessing.forkserver": CODE_SERVER,
    "sim_pipeline.dagster_instance.daemon": DAEMON,
    "sim_pipeline.dagster_instance.webserver": WEBSERVER,
}
_KIBIBYTES_IN_MEBIBYTE = 1024
_MEBIBYTE = 1024**2
# Absolute growth that is always allowed. Memory (MiB): 5 % of a process of a dozen MiB is only a
# few more tables in a session's cache. Threads: two more simultaneous calls than before.
_ALLOWANCE = {"memory": 4.0, "threads": 2.0}

Footprint = dict[str, dict[str, float]]
"""The value of each measure, by kind of process."""


@dataclass(frozen=True)
class Sample:
    """A snapshot of the service's resource use.

    Attributes:
        seconds: time since the service was ready.
        footprint: the resource use.
    """

    seconds: float
    footprint: Footprint

    @property
    def idle(self) -> bool:
        """True if no run was executing. Only idle samples are comparable."""
        return RUN_WORKER not in self.footprint


@dataclass(frozen=True)
class Growth:
    """The growth of one measure of one kind of process.

    Attributes:
        kind: the kind of process.
        measure: one of MEASURES, or CACHED_FILES.
        early: minimum of the early samples for memory, else their median.
        late: the same for the late samples.
        limit: maximum allowed growth, as a fraction; infinite for CACHED_FILES.
    """

    kind: str
    measure: str
    early: float
    late: float
    limit: float

    @property
    def fraction(self) -> float:
        """Growth as a fraction of `early`; infinite for growth from zero."""
        if self.early == 0:
            return 0.0 if self.late == 0 else math.inf
        return self.late / self.early - 1

    @property
    def passed(self) -> bool:
        """True if the growth is within the limit or the allowance."""
        allowance = _ALLOWANCE.get(self.measure, 0.0)
        return self.late - self.early <= allowance or self.fraction <= self.limit


def take_sample(directory: Path, supervisor: psutil.Process, seconds: float) -> Sample:
    """Measure all processes of the service.

    Args:
        directory: the service's directory.
        supervisor: the service's main process.
        seconds: time since the service was ready.
    """
    footprint: Footprint = {}
    for process in processes_of(directory, supervisor):
        try:
            kind = SUPERVISOR if process == supervisor else _kind(process, directory)
            values = _measure(process)
            if kind == POSTGRESQL:
                values |= _measure_postgres(process, directory, values["files"])
        except psutil.ZombieProcess:
            kind, values = OTHER, {"processes": 1}
        except (psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError):
            continue
        for name in (kind, ALL):
            sums = footprint.setdefault(name, dict.fromkeys(MEASURES, 0))
            for measure, value in values.items():
                sums[measure] = sums.get(measure, 0) + value
    return Sample(seconds, footprint)


def processes_of(directory: Path, supervisor: psutil.Process) -> set[psutil.Process]:
    """Find every process of the service, the supervisor included."""
    found = {process for process in psutil.process_iter() if _mentions(process, directory)}
    with contextlib.suppress(psutil.NoSuchProcess):
        found |= {supervisor, *supervisor.children(recursive=True)}
    return found


def growths(early: Sequence[Sample], late: Sequence[Sample], limit: float) -> list[Growth]:
    """Return the growth of each kind and measure, from idle samples.

    Memory is compared by its minimum: garbage and buffered logs rise and fall, but a leak raises
    the minimum. The other measures are compared by their median.

    Raises:
        ValueError: there are no idle samples among the early or the late ones.
    """
    early = [sample for sample in early if sample.idle]
    late = [sample for sample in late if sample.idle]
    if not early or not late:
        raise ValueError(
            "a run was executing during every sample: there are no idle samples to compare"
        )
    limits = {(kind, measure): limit for kind in KINDS for measure in MEASURES}
    limits[POSTGRESQL, CACHED_FILES] = math.inf
    return [
        Growth(kind, measure, _level(early, kind, measure), _level(late, kind, measure), allowed)
        for (kind, measure), allowed in limits.items()
    ]


def _level(samples: Iterable[Sample], kind: str, measure: str) -> float:
    values = [sample.footprint.get(kind, {}).get(measure, 0) for sample in samples]
    return min(values) if measure == "memory" else statistics.median(values)


def _mentions(process: psutil.Process, directory: Path) -> bool:
    """Return whether the process's cwd, command line or environment contains the directory."""
    try:
        started_with = [process.cwd(), *process.cmdline(), *process.environ().values()]
    except (psutil.Error, OSError):  # it has ended, or belongs to another user
        return False
    return any(str(directory) in text for text in started_with)


def _kind(process: psutil.Process, directory: Path) -> str:
    if is_run_worker(process):
        return RUN_WORKER
    command = process.cmdline()
    text = " ".join(command)
    for word, kind in _PYTHON.items():
        if word in command or f"from {word} " in text:
            return kind
    places = [process.cwd(), *process.environ().values()]
    for name, kind in (("postgres", POSTGRESQL), ("rabbitmq", RABBITMQ)):
        if any(str(directory / ".local" / name) in place for place in places):
            return kind
    return OTHER


def _measure(process: psutil.Process) -> dict[str, float]:
    with process.oneshot():
        return {
            "processes": 1,
            "threads": process.num_threads(),
            "files": process.num_fds(),
            "connections": sum(
                connection.status == psutil.CONN_ESTABLISHED
                for connection in process.net_connections(kind="tcp")
            ),
            "memory": process.memory_info().rss / _MEBIBYTE,
        }


def _measure_postgres(process: psutil.Process, directory: Path, files: float) -> dict[str, float]:
    cluster = directory / ".local" / "postgres" / "cluster"
    rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
    proportional = {
        name: int(kibibytes) / _KIBIBYTES_IN_MEBIBYTE
        for name, kibibytes in re.findall(r"^(Pss|Pss_Shmem):\s+(\d+) kB$", rollup, re.MULTILINE)
    }
    cached = sum(Path(file.path).is_relative_to(cluster) for file in process.open_files())
    return {
        "files": files - cached,
        CACHED_FILES: cached,
        "memory": proportional["Pss"] - proportional["Pss_Shmem"],
    }
