"""Removes or overrides variables of the machine that would change what the pipeline does.

These are variables that libraries read: proxies, libpq, Python. The pipeline's own settings are in
`config`.
"""

import os
from collections.abc import Mapping
from typing import Final

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")

# Variables that hold hosts which our processes reach over HTTP or gRPC, never through a proxy.
_DIRECT: Final = ("UI_HOST", "CODE_SERVER_HOST", "KUBERNETES_SERVICE_HOST")

# gRPC reads no_grpc_proxy before the others; Python's urllib and requests prefer the lower case.
_NO_PROXY: Final = ("no_proxy", "NO_PROXY", "no_grpc_proxy")

# libpq reads these for parameters that a connection does not set. Some of them win even over
# parameters that it sets: with PGHOSTADDR, libpq connects to another server than the given host.
_LIBPQ_REMOVED: Final = (
    "PGHOST",
    "PGHOSTADDR",
    "PGPORT",
    "PGUSER",
    "PGDATABASE",
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGOPTIONS",
    "PGDATESTYLE",
    "PGCLIENTENCODING",
    "PGGEQO",
    "PGTARGETSESSIONATTRS",
)


def safe_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of an environment that is safe for the pipeline's processes.

    - The pipeline's processes reach each other without a proxy: loopback, the hosts of the UI and
      the code server, and Kubernetes' API server are added to the machine's own exceptions.
    - libpq takes the server from the settings only. Its sessions, those of `psql` too, are in UTC.
      `store/connection.py` has the other session settings.
    - Python reads and writes UTF-8 whatever the locale is, so that any model name can be logged.
    """
    safe = {name: value for name, value in environment.items() if name not in _LIBPQ_REMOVED}
    hosts = [part.strip() for name in _NO_PROXY for part in environment.get(name, "").split(",")]
    hosts += [*_LOOPBACK, *(environment.get(name, "") for name in _DIRECT)]
    exempt = ",".join(dict.fromkeys(filter(None, hosts)))
    return safe | dict.fromkeys(_NO_PROXY, exempt) | {"PGTZ": "UTC", "PYTHONUTF8": "1"}


def secure_this_process() -> None:
    """Make the environment of this process, and of the processes it starts, safe."""
    safe = safe_environment(os.environ)
    for name in os.environ.keys() - safe.keys():
        del os.environ[name]
    os.environ.update(safe)
