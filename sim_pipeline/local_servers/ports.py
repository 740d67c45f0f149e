"""TCP ports of this machine's addresses."""

import errno
import random
import socket
from typing import Any

from sim_pipeline.errors import ServiceError

# Below 32768, where Linux starts to hand out ports to outgoing connections.
_FREE_PORTS = range(20_000, 32_768)
_CONNECT_SECONDS = 5.0
# An address that this machine does not have, or not while IPv6 is off.
_NOT_OURS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def address(host: str, port: int | str) -> str:
    """Return host and port as a URL has them: an IPv6 address in square brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_free(port: int, host: str) -> bool:
    """Tell whether a server could listen on `port` of `host` now."""
    return _bind_error(port, host) is None


def listens(host: str, port: int) -> bool:
    """Tell whether a server accepts connections on `port` of `host` now."""
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except (OSError, UnicodeError):
        return False
    return True


def resolve(host: str) -> list[str]:
    """Return the IP addresses that a server on `host` listens on.

    Raises:
        socket.gaierror: If there is none.
    """
    return [str(sockaddr[0]) for *_, sockaddr in _resolve(host, 0)]


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
    """Raise unless a server can listen on `port` of `host`.

    Args:
        service: Name of the server that needs the port.
        port: The port it needs.
        host: The address, or the name, that it listens on.
        variable: Name of the setting the port comes from, such as UI_PORT; the host comes from
            UI_HOST then.

    Raises:
        ServiceError: If it cannot; says why, and which setting to change.
    """
    error = _bind_error(port, host)
    if error is None:
        return
    setting = f"{service}: {variable.removesuffix('_PORT')}_HOST={host!r}"
    allowed = "allowed is an address, or a name, of this machine, such as 127.0.0.1"
    if isinstance(error, socket.gaierror):
        raise ServiceError(f"{setting} does not resolve ({error.strerror}): {allowed}")
    if error.errno in _NOT_OURS:
        raise ServiceError(f"{setting} is not an address of this machine: {allowed}")
    if error.errno == errno.EACCES:
        raise ServiceError(
            f"{service}: no permission to listen on port {port}:"
            f" set {variable} to a port from 1024 on"
        )
    if error.errno == errno.EADDRINUSE:
        raise ServiceError(
            f"{service}: port {port} on {host} is in use: "
            f"stop what uses it, or set {variable} to a free port"
        )
    raise ServiceError(f"{service}: cannot listen on {address(host, port)}: {error.strerror}")


def _bind_error(port: int, host: str) -> OSError | None:
    """Return what keeps a server from listening on `port` of `host`, or None.

    A name may stand for several addresses. Those that the machine does not have, such as ::1 where
    IPv6 is off, do not count as long as it has another.
    """
    try:
        errors = [_bind_error_of(family, sockaddr) for family, sockaddr in _resolve(host, port)]
    except socket.gaierror as error:
        return error
    not_ours = [error for error in errors if error is not None and error.errno in _NOT_OURS]
    others = [error for error in errors if error is not None and error.errno not in _NOT_OURS]
    if others:
        return others[0]
    return not_ours[0] if len(not_ours) == len(errors) else None


def _resolve(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError:  # a part of the name is empty or too long
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None
    return [(family, sockaddr) for family, _, _, _, sockaddr in found]


def _bind_error_of(family: int, sockaddr: tuple[Any, ...]) -> OSError | None:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As servers do: connections in TIME_WAIT do not keep a port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(sockaddr)
    except OSError as error:
        return error
    return None
