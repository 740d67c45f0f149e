"""What a table of figures is headed with: the machine and the versions they were got on."""

import os
import platform
from importlib.metadata import version
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

import dagster as dg
import pika
import psutil
import sqlalchemy as sa

from benchmarks.servers import servers
from sim_pipeline.local_servers.rabbitmq import LocalRabbitMQ

_PACKAGES = (
    "dagster",
    "dagster-postgres",
    "numpy",
    "pandas",
    "pyarrow",
    "adbc-driver-postgresql",
    "sqlalchemy",
    "psycopg2-binary",
    "pika",
    "orjson",
)
_GIBIBYTE = 1024**3


def header() -> str:
    """Return two lines: the machine, and the versions of what matters."""
    versions = ", ".join(f"{name} {number}" for name, number in package_versions().items())
    return f"{machine()}\n{versions}"


def machine() -> str:
    """Describe the machine: system, processor, cores, memory."""
    memory = psutil.virtual_memory().total / _GIBIBYTE
    return (
        f"{platform.system()} {platform.release()} {platform.machine()}, {_processor()},"
        f" {os.cpu_count()} cores, {memory:.1f} GiB"
    )


def _processor() -> str:
    """Return the processor's name, as far as the system tells it."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown processor"


def bytecode_is_cached() -> bool:
    """Tell whether Python has its libraries compiled.

    Where it has not, and PYTHONDONTWRITEBYTECODE keeps it from doing so, every process compiles
    what it imports: that takes longer than most runs.
    """
    return Path(cache_from_source(dg.__file__)).exists()


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter, by name."""
    return {"Python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def server_versions() -> dict[str, str]:
    """Start each server for a moment and ask it."""
    with servers() as (postgres, rabbitmq):
        engine = sa.create_engine(postgres.url(), poolclass=sa.NullPool)
        with engine.connect() as connection:
            number = connection.scalar(sa.text("SHOW server_version"))
        return {"PostgreSQL": str(number), "RabbitMQ": _rabbitmq_version(rabbitmq)}


def _rabbitmq_version(server: LocalRabbitMQ) -> str:
    with pika.BlockingConnection(server.connection_parameters()) as connection:
        # Of what the node says of itself pika has no public word.
        connected: Any = connection
        properties: dict[str, Any] = connected._impl.server_properties  # noqa: SLF001
    number = properties["version"]
    return number.decode() if isinstance(number, bytes) else str(number)
