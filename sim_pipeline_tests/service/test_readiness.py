"""Waiting for servers: unreachable ones are retried, refusals fail at once."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sim_pipeline.config import Settings
from sim_pipeline.connections import results_database
from sim_pipeline.errors import ServiceError
from sim_pipeline.service.readiness import await_database, await_servers
from sim_pipeline_tests.support.tcp_proxy import TcpProxy

PASSWORD = "not the right one"  # noqa: S105 - a wrong password, for tests


def no_sleep(seconds: float) -> bool:
    pytest.fail(f"waits {seconds} s although it must not retry")


def stop(seconds: float) -> bool:
    return seconds > 0


def keep_waiting(seconds: float) -> bool:
    return seconds < 0


@pytest.fixture
def named(settings: Settings) -> Settings:
    """Settings that name one existing database for both purposes."""
    return settings.model_copy(update={"dagster_postgres_db": settings.postgres_db})


@pytest.fixture(params=["postgres", "rabbitmq"])
def server(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def proxy(named: Settings, server: str) -> Iterator[TcpProxy]:
    with TcpProxy((getattr(named, f"{server}_host"), getattr(named, f"{server}_port"))) as proxy:
        yield proxy


@pytest.fixture
def behind(named: Settings, server: str, proxy: TcpProxy) -> Settings:
    """The same settings with a proxy in front of one server."""
    return named.model_copy(update={f"{server}_host": proxy.host, f"{server}_port": proxy.port})


def test_ready_servers_need_no_wait(named: Settings) -> None:
    assert await_servers(named, no_sleep)


def test_late_server_is_awaited_with_one_log_line(
    behind: Settings, server: str, proxy: TcpProxy, caplog: pytest.LogCaptureFixture
) -> None:
    sleeps = []

    def heal_at_the_third(seconds: float) -> bool:
        sleeps.append(seconds)
        if len(sleeps) == 3:
            proxy.heal()
        return False

    proxy.refuse()
    with caplog.at_level(logging.INFO, "sim_pipeline"):
        assert await_servers(behind, heal_at_the_third)
    assert len(sleeps) == 3
    (line,) = caplog.messages
    name = {"postgres": "PostgreSQL", "rabbitmq": "RabbitMQ"}[server]
    assert line.startswith(f"Waiting for {name} at {proxy.host}:{proxy.port}, up to 120 s: ")


def test_timeout_error_names_server_and_variables(
    behind: Settings, server: str, proxy: TcpProxy
) -> None:
    proxy.refuse()
    with pytest.raises(ServiceError) as raised:
        await_servers(behind, keep_waiting, timeout=0)
    message = str(raised.value)
    assert f"at {proxy.host}:{proxy.port} cannot be reached within 0 s: " in message
    assert f"{server.upper()}_HOST and {server.upper()}_PORT" in message


def test_unresolved_host_name_is_retried(named: Settings, server: str) -> None:
    nowhere = named.model_copy(update={f"{server}_host": "nowhere.invalid"})
    assert not await_servers(nowhere, stop)


def test_stop_request_ends_the_wait(behind: Settings, proxy: TcpProxy) -> None:
    proxy.refuse()
    assert not await_servers(behind, stop)


def test_wrong_password_fails_at_once(named: Settings, server: str) -> None:
    secret = type(named.postgres_password)(PASSWORD)
    wrong = named.model_copy(update={f"{server}_password": secret})
    with pytest.raises(ServiceError, match="check the user") as raised:
        await_servers(wrong, no_sleep)
    assert PASSWORD not in str(raised.value)


def test_missing_database_fails_at_once(named: Settings) -> None:
    with pytest.raises(ServiceError, match="nothing_of_this_name"):
        await_database(replace(results_database(named), database="nothing_of_this_name"), no_sleep)


def test_missing_virtual_host_fails_at_once(named: Settings) -> None:
    wrong = named.model_copy(update={"rabbitmq_vhost": "nothing-of-this-name"})
    with pytest.raises(ServiceError, match="nothing-of-this-name"):
        await_servers(wrong, no_sleep)


def test_invalid_ca_file_fails_at_once(named: Settings, tmp_path: Path) -> None:
    empty = tmp_path / "ca.pem"
    empty.touch()
    wrong = named.model_copy(update={"rabbitmq_tls": True, "rabbitmq_ca_file": empty})
    with pytest.raises(ServiceError, match="CA file"):
        await_servers(wrong, no_sleep)
