"""The machine and the versions, for the header of a table of results."""

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
    """Return two lines: the machine, and the versions of the main packages."""
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
    """Return the processor's name, if the system provides it."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown processor"


def bytecode_is_cached() -> bool:
    """Return whether the bytecode of the installed libraries is cached.

    Without it, and with PYTHONDONTWRITEBYTECODE set, every process compiles its imports. That takes
    longer than most runs.
    """
    return Path(cache_from_source(dg.__file__)).exists()


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the main packages, by name."""
    return {"Python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def server_versions() -> dict[str, str]:
    """Start each server briefly, and return its version."""
    with servers() as (postgres, rabbitmq):
        engine = sa.create_engine(postgres.url(), poolclass=sa.NullPool)
        with engine.connect() as connection:
            number = connection.scalar(sa.text("SHOW server_version"))
        return {"PostgreSQL": str(number), "RabbitMQ": _rabbitmq_version(rabbitmq)}


def _rabbitmq_version(server: LocalRabbitMQ) -> str:
    with pika.BlockingConnection(server.connection_parameters()) as connection:
        # pika has no public access to the node's properties.
        connected: Any = connection
        properties: dict[str, Any] = connected._impl.server_properties  # noqa: SLF001
    number = properties["version"]
    return number.decode() if isinstance(number, bytes) else str(number)
