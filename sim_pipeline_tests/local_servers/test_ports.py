"""TCP ports on this machine."""

import socket

import pytest

from sim_pipeline.errors import ServiceError
from sim_pipeline.local_servers.ports import (
    address,
    free_port,
    is_free,
    listens,
    require_free,
    resolve,
)

HOST = "127.0.0.1"


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


with_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")


def test_free_port_is_below_the_outgoing_range() -> None:
    ports = {free_port() for _ in range(50)}
    assert all(20_000 <= port < 32_768 for port in ports)
    assert len(ports) > 1


@pytest.mark.parametrize("host", [HOST, pytest.param("::1", marks=with_ipv6), "localhost"])
def test_port_is_taken_while_a_server_listens(host: str) -> None:
    port = free_port(host)
    assert not listens(host, port)
    family = socket.AF_INET6 if host == "::1" else socket.AF_INET
    with socket.create_server((host, port), family=family):
        assert not is_free(port, host)
        assert listens(host, port)


def test_connection_in_time_wait_leaves_port_free() -> None:
    port = free_port()
    with socket.create_server((HOST, port)) as server:
        client = socket.create_connection((HOST, port))
        connection, _ = server.accept()
        connection.close()
        client.close()
    assert is_free(port, HOST)


@pytest.mark.parametrize(
    "host",
    [
        HOST,
        "localhost",
        "0.0.0.0",  # noqa: S104
        socket.gethostname(),
        pytest.param("::", marks=with_ipv6),
        pytest.param("::1", marks=with_ipv6),
    ],
)
def test_any_local_address_is_accepted(host: str) -> None:
    require_free("Name", free_port(), host, "A_PORT")


def test_one_local_address_of_a_name_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_ipv6(*_: object, **__: object) -> list[object]:
        stream = socket.SOCK_STREAM
        return [
            (socket.AF_INET, stream, 6, "", ("192.0.2.1", port)),
            (socket.AF_INET, stream, 6, "", (HOST, port)),
        ]

    port = free_port()
    monkeypatch.setattr(socket, "getaddrinfo", without_ipv6)
    require_free("Name", port, "localhost", "A_PORT")


def test_port_in_use_error_names_the_variable() -> None:
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ServiceError, match=rf"^Name: port {port} .* in use.* set A_PORT "):
            require_free("Name", port, HOST, "A_PORT")


@pytest.mark.parametrize(
    ("host", "cause"),
    [
        ("no-such-host.invalid", "does not resolve"),
        ("a..b", "does not resolve"),
        ("192.0.2.1", "is not an address of this machine"),
        ("2001:db8::1", "is not an address of this machine"),
    ],
)
def test_host_of_another_machine_is_rejected(host: str, cause: str) -> None:
    with pytest.raises(ServiceError, match=rf"^Name: A_HOST='{host}' {cause}") as raised:
        require_free("Name", free_port(), host, "A_PORT")
    assert "in use" not in str(raised.value)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied"), "no permission to listen on port 80: set A_"),
        (OSError(5, "Input/output error"), "cannot listen on [::1]:80: Input/output error"),
    ],
)
def test_other_errors_are_passed_on(
    monkeypatch: pytest.MonkeyPatch, error: OSError, message: str
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(ServiceError) as raised:
        require_free("Name", 80, "::1", "A_PORT")
    assert str(raised.value).startswith(f"Name: {message}")


def test_address_puts_brackets_around_ipv6() -> None:
    assert address("::1", 5432) == "[::1]:5432"
    assert address("localhost", 5432) == "localhost:5432"


def test_name_resolves_to_addresses() -> None:
    assert HOST in resolve("localhost")
    assert resolve("::1") == ["::1"]
