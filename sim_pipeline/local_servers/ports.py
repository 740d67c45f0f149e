"""TCP ports on this machine: find a free one, check one, name the reason if it is not usable."""

import errno
import random
import socket
from typing import Any

from sim_pipeline.errors import ServiceError

# From 32768 on, Linux assigns ports to outgoing connections.
_FREE_PORTS = range(20_000, 32_768)
_CONNECT_SECONDS = 5.0
# The machine does not have the address, or IPv6 is off.
_NOT_LOCAL = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def address(host: str, port: int | str) -> str:
    """Return `host:port` as in a URL, with an IPv6 address in square brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_free(port: int, host: str) -> bool:
    """Return whether a server could listen on `port` of `host` now."""
    return _bind_error(port, host) is None


def listens(host: str, port: int) -> bool:
    """Return whether a server accepts connections on `port` of `host` now."""
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except (OSError, UnicodeError):
        return False
    return True


def resolve(host: str) -> list[str]:
    """Return the IP addresses that a server on `host` listens on.

    Raises:
        socket.gaierror: If the name does not resolve.
    """
    return [str(sockaddr[0]) for *_, sockaddr in _resolve(host, 0)]


def free_port(host: str = "127.0.0.1") -> int:
    """Return a random free port between 20000 and 32767.

    Random, so that processes that call this at the same time get different ports.

    Raises:
        ServiceError: If 1,000 random ports are all in use.
    """
    for port in random.SystemRandom().choices(_FREE_PORTS, k=1_000):
        if is_free(port, host):
            return port
    raise ServiceError(
        f"no free port on {host} between {_FREE_PORTS.start} and {_FREE_PORTS.stop - 1}"
    )


def require_free(service: str, port: int, host: str, variable: str) -> None:
    """Raise an error if a server cannot listen on `port` of `host`.

    Args:
        service: Name of the server, for the message.
        port: The port it listens on.
        host: The address or host name it listens on.
        variable: Environment variable that sets the port, such as UI_PORT. The variable of the
            host is named alike, such as UI_HOST.

    Raises:
        ServiceError: If it cannot listen. The message says why and which setting to change.
    """
    error = _bind_error(port, host)
    if error is None:
        return
    setting = f"{service}: {variable.removesuffix('_PORT')}_HOST={host!r}"
    allowed = "allowed is an address or a host name of this machine, such as 127.0.0.1"
    if isinstance(error, socket.gaierror):
        raise ServiceError(f"{setting} does not resolve ({error.strerror}): {allowed}")
    if error.errno in _NOT_LOCAL:
        raise ServiceError(f"{setting} is not an address of this machine: {allowed}")
    if error.errno == errno.EACCES:
        raise ServiceError(
            f"{service}: no permission to listen on port {port}: set {variable} to 1024 or higher"
        )
    if error.errno == errno.EADDRINUSE:
        raise ServiceError(
            f"{service}: port {port} on {host} is in use: "
            f"stop the program that uses it, or set {variable} to a free port"
        )
    raise ServiceError(f"{service}: cannot listen on {address(host, port)}: {error.strerror}")


def _bind_error(port: int, host: str) -> OSError | None:
    """Return the error that a server would get on listening on `port` of `host`, or None.

    A name may resolve to several addresses. Addresses that the machine does not have, such as ::1
    if IPv6 is off, are ignored if it has at least one of the others.
    """
    try:
        errors = [_bind_error_of(family, sockaddr) for family, sockaddr in _resolve(host, port)]
    except socket.gaierror as error:
        return error
    not_local = [error for error in errors if error is not None and error.errno in _NOT_LOCAL]
    others = [error for error in errors if error is not None and error.errno not in _NOT_LOCAL]
    if others:
        return others[0]
    return not_local[0] if len(not_local) == len(errors) else None


def _resolve(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError:  # a label of the name is empty or too long
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None
    return [(family, sockaddr) for family, _, _, _, sockaddr in found]


def _bind_error_of(family: int, sockaddr: tuple[Any, ...]) -> OSError | None:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As servers do: a connection in TIME_WAIT does not block the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(sockaddr)
    except OSError as error:
        return error
    return None
