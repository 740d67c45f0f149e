"""TCP ports of the loopback interface."""

import random
import socket

from sim_pipeline.service.errors import ServiceError

# Below 32768, where Linux starts to hand out ports to outgoing connections.
_FREE_PORTS = range(20_000, 32_768)
_CONNECT_SECONDS = 5.0


def is_free(port: int, host: str) -> bool:
    """Tell whether a server could listen on `port` of `host` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections in TIME_WAIT do not keep a port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def is_open(port: int, host: str) -> bool:
    """Tell whether a server accepts connections on `port` of `host` now."""
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def listens(host: str, port: int) -> bool:
    """Tell whether a connection to `port` of `host` is accepted now."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port between 20000 and 32767 that nothing listens on.

    Drawn at random, so that processes that ask at the same time get different ones.

    Raises:
        ServiceError: If none of 1,000 drawn ports is free.
    """
    for port in random.SystemRandom().choices(_FREE_PORTS, k=1_000):
        if is_free(port, host):
            return port
    raise ServiceError(
        f"no free port on {host} between {_FREE_PORTS.start} and {_FREE_PORTS.stop - 1}"
    )


def require_free(service: str, port: int, host: str, variable: str) -> None:
    """Raise unless a server can listen on `port`.

    Args:
        service: Name of the server that needs the port.
        port: The port it needs.
        host: The address it listens on.
        variable: Name of the setting the port comes from.

    Raises:
        ServiceError: If another process listens there, or the address is not this machine's.
    """
    if not is_free(port, host):
        raise ServiceError(
            f"{service}: port {port} on {host} is in use: "
            f"stop what uses it, or set {variable} to a free port"
        )
