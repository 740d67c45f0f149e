"""What the processes of a running service take of the machine, and whether it grows.

Linux. A process belongs to the service if the service's directory is in its working directory, its
command or its environment, or if it descends from the supervisor: so one that lost its parent is
counted, and so is one that nobody reaps. Of each kind of process are counted:

processes    those alive, and zombies.
threads      of all of them. A pool starts another one when more calls come together than ever
             before, up to its fixed size.
files        open file descriptors, sockets included. Of PostgreSQL without `cached files`.
connections  established TCP connections at either end. A session of PostgreSQL is one of its
             backends and so a connection of PostgreSQL; RabbitMQ's are its clients', and two
             between its own processes. They are counted at the socket, not asked of the servers,
             since asking is one connection more.
memory       resident memory in MiB. Of PostgreSQL without the shared buffers, which are in the
             resident memory of each process that touched them and fill up to their fixed size as
             the database grows; and what its processes share since they were forked counts once
             (PSS less its shared memory).
cached files Of PostgreSQL, descriptors of the cluster's own files. Each of its processes keeps
             those open that it may read again, up to max_files_per_process (1000), and closes the
             least used: so they grow with the files a process has come across, by design.
             Shown, not limited.
"""

import contextlib
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

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
"""The kinds that are there all the time: run workers come and go."""

MEASURES = ("processes", "threads", "files", "connections", "memory")
CACHED_FILES = "cached files"

# A module or a function in the command line of a Python process of the service.
_PYTHON = {
    "grpc": CODE_SERVER,
    "multiprocessing.resource_tracker": CODE_SERVER,
    "multiprocessing.spawn": RUN_WORKER,
    "sim_pipeline.dagster_instance.daemon": DAEMON,
    "dagster_webserver": WEBSERVER,
}
_KIBIBYTES_IN_MEBIBYTE = 1024
_MEBIBYTE = 1024**2
# What is no growth, however few there are. MiB: of what takes a dozen in all, 5 % are a few tables
# more in a session's cache. Threads: two calls more than ever before that came together.
_LITTLE = {"memory": 4.0, "threads": 2.0}

Footprint = dict[str, dict[str, float]]
"""Of each kind of process, each measure."""


@dataclass(frozen=True)
class Sample:
    """A look at the service.

    Attributes:
        seconds: since the service was ready.
        footprint: what its processes took.
    """

    seconds: float
    footprint: Footprint

    @property
    def idle(self) -> bool:
        """Whether no run was under way: moments that can be compared."""
        return RUN_WORKER not in self.footprint


@dataclass(frozen=True)
class Growth:
    """One measure of one kind of process, early and late.

    Attributes:
        kind: of process.
        measure: one of MEASURES, or CACHED_FILES.
        early: least of the early samples for memory, else their median.
        late: the same of the late samples.
        limit: largest growth that is allowed, as a fraction; infinite for CACHED_FILES.
    """

    kind: str
    measure: str
    early: float
    late: float
    limit: float

    @property
    def fraction(self) -> float:
        """Growth as a fraction of `early`; infinite where there was nothing."""
        if self.early == 0:
            return 0.0 if self.late == 0 else math.inf
        return self.late / self.early - 1

    @property
    def passed(self) -> bool:
        """Whether it grew no more than is allowed."""
        little = _LITTLE.get(self.measure, 0.0)
        return self.late - self.early <= little or self.fraction <= self.limit


def take_sample(directory: Path, supervisor: psutil.Process, seconds: float) -> Sample:
    """Look at all processes of the service that works in this directory."""
    footprint: Footprint = {}
    for process in processes_of(directory, supervisor):
        try:
            kind = SUPERVISOR if process == supervisor else _kind(process, directory)
            taken = _taken(process)
            if kind == POSTGRESQL:
                taken |= _taken_by_postgres(process, directory, taken["files"])
        except psutil.ZombieProcess:
            kind, taken = OTHER, {"processes": 1}
        except (psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError):
            continue
        for name in (kind, ALL):
            sums = footprint.setdefault(name, dict.fromkeys(MEASURES, 0))
            for measure, value in taken.items():
                sums[measure] = sums.get(measure, 0) + value
    return Sample(seconds, footprint)


def processes_of(directory: Path, supervisor: psutil.Process) -> set[psutil.Process]:
    """Find every process of the service, the supervisor included."""
    found = {process for process in psutil.process_iter() if _names(process, directory)}
    with contextlib.suppress(psutil.NoSuchProcess):
        found |= {supervisor, *supervisor.children(recursive=True)}
    return found


def growths(early: Sequence[Sample], late: Sequence[Sample], limit: float) -> list[Growth]:
    """Compare idle samples of each kind and measure.

    Of memory the least is what counts: what a collector, or a log that is written out when it is
    full, has yet to let go of rises and falls; a leak lifts the floor. Of the rest, the medians.

    Raises:
        ValueError: there is no idle sample among the early or the late ones.
    """
    early, late = [one for one in early if one.idle], [one for one in late if one.idle]
    if not early or not late:
        raise ValueError("a run was under way at every sample: nothing can be compared")
    limits = {(kind, measure): limit for kind in KINDS for measure in MEASURES}
    limits[POSTGRESQL, CACHED_FILES] = math.inf
    return [
        Growth(kind, measure, _level(early, kind, measure), _level(late, kind, measure), allowed)
        for (kind, measure), allowed in limits.items()
    ]


def _level(samples: Iterable[Sample], kind: str, measure: str) -> float:
    values = [sample.footprint.get(kind, {}).get(measure, 0) for sample in samples]
    return min(values) if measure == "memory" else statistics.median(values)


def _names(process: psutil.Process, directory: Path) -> bool:
    """Tell whether the directory is in what the process was started with."""
    try:
        started_with = [process.cwd(), *process.cmdline(), *process.environ().values()]
    except (psutil.Error, OSError):  # gone meanwhile, or somebody else's
        return False
    return any(str(directory) in text for text in started_with)


def _kind(process: psutil.Process, directory: Path) -> str:
    command = process.cmdline()
    text = " ".join(command)
    for word, kind in _PYTHON.items():
        if word in command or f"from {word} " in text:
            return kind
    where = [process.cwd(), *process.environ().values()]
    for name, kind in (("postgres", POSTGRESQL), ("rabbitmq", RABBITMQ)):
        if any(str(directory / ".local" / name) in place for place in where):
            return kind
    return OTHER


def _taken(process: psutil.Process) -> dict[str, float]:
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


def _taken_by_postgres(process: psutil.Process, directory: Path, files: float) -> dict[str, float]:
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
