"""Ports of the loopback interface."""

import socket

import pytest

from sim_pipeline.service.errors import ServiceError
from sim_pipeline.service.ports import free_port, is_free, is_open, require_free

HOST = "127.0.0.1"


def test_a_free_port_lies_below_those_of_outgoing_connections() -> None:
    ports = {free_port() for _ in range(50)}
    assert all(20_000 <= port < 32_768 for port in ports)
    assert len(ports) > 1


def test_a_port_is_taken_and_open_while_a_server_listens() -> None:
    port = free_port()
    assert is_free(port, HOST)
    assert not is_open(port, HOST)
    with socket.create_server((HOST, port)):
        assert not is_free(port, HOST)
        assert is_open(port, HOST)


def test_a_port_is_free_after_a_connection_was_closed_by_the_server() -> None:
    port = free_port()
    with socket.create_server((HOST, port)) as server:
        client = socket.create_connection((HOST, port))
        connection, _ = server.accept()
        connection.close()
        client.close()
    assert is_free(port, HOST)


def test_the_error_names_server_port_and_variable() -> None:
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ServiceError, match=rf"^Name: port {port} .* in use.* set A_PORT "):
            require_free("Name", port, HOST, "A_PORT")
