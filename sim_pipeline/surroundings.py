"""The environment of every process of the pipeline, made safe from what the machine sets in it.

What belongs here: variables that other programs read (proxies, libpq, Python) and that would
change what the pipeline does. The pipeline's own settings belong to `config`.
"""

import os
from collections.abc import Mapping
from typing import Final

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")

# Variables that name what our processes reach over HTTP or gRPC: never through a proxy.
_DIRECT: Final = ("UI_HOST", "CODE_SERVER_HOST", "KUBERNETES_SERVICE_HOST")

# gRPC reads no_grpc_proxy before the others; Python's urllib and requests prefer the lower case.
_NO_PROXY: Final = ("no_proxy", "NO_PROXY", "no_grpc_proxy")

# libpq reads these where a connection does not name them, and some of them even where it does:
# PGHOSTADDR leads to another server than the host that the settings name.
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
    """Return an environment without what would lead the pipeline elsewhere.

    - No proxy stands between the pipeline's own processes: loopback, the hosts of UI and code
      server, and Kubernetes' API server are added to what the machine already exempts.
    - libpq takes the server from the settings only, and its sessions are in UTC, those of `psql`
      too. What a session of the pipeline relies on besides is in `store.postgres`.
    - Python reads and writes UTF-8 whatever the locale is, so that a model's name can be logged.
    """
    safe = {name: value for name, value in environment.items() if name not in _LIBPQ_REMOVED}
    hosts = [part.strip() for name in _NO_PROXY for part in environment.get(name, "").split(",")]
    hosts += [*_LOOPBACK, *(environment.get(name, "") for name in _DIRECT)]
    exempt = ",".join(dict.fromkeys(filter(None, hosts)))
    return safe | dict.fromkeys(_NO_PROXY, exempt) | {"PGTZ": "UTC", "PYTHONUTF8": "1"}


def secure_this_process() -> None:
    """Make the environment of this process safe, and so that of the processes it starts."""
    safe = safe_environment(os.environ)
    for name in os.environ.keys() - safe.keys():
        del os.environ[name]
    os.environ.update(safe)
