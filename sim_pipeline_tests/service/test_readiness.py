"""A server that cannot be reached yet is waited for; one that refuses is not."""

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

PASSWORD = "not the right one"  # noqa: S105 - by intention


def no_pause(seconds: float) -> bool:
    pytest.fail(f"waits {seconds} s for a server that refused")


def stop(seconds: float) -> bool:
    return seconds > 0


def go_on(seconds: float) -> bool:
    return seconds < 0


@pytest.fixture
def named(settings: Settings) -> Settings:
    """Settings whose two databases are there: here one, for both."""
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
    """The same, with a proxy in front of one of the servers."""
    return named.model_copy(update={f"{server}_host": proxy.host, f"{server}_port": proxy.port})


def test_servers_that_are_there_are_not_waited_for(named: Settings) -> None:
    assert await_servers(named, no_pause)


def test_one_that_comes_later_is_waited_for_and_that_is_told_once(
    behind: Settings, server: str, proxy: TcpProxy, caplog: pytest.LogCaptureFixture
) -> None:
    pauses = []

    def heal_at_the_third(seconds: float) -> bool:
        pauses.append(seconds)
        if len(pauses) == 3:
            proxy.heal()
        return False

    proxy.refuse()
    with caplog.at_level(logging.INFO, "sim_pipeline"):
        assert await_servers(behind, heal_at_the_third)
    assert len(pauses) == 3
    (line,) = caplog.messages
    name = {"postgres": "PostgreSQL", "rabbitmq": "RabbitMQ"}[server]
    assert line.startswith(f"Waiting for {name} at {proxy.host}:{proxy.port}, up to 120 s: ")


def test_one_that_stays_away_is_named_with_its_variables(
    behind: Settings, server: str, proxy: TcpProxy
) -> None:
    proxy.refuse()
    with pytest.raises(ServiceError) as raised:
        await_servers(behind, go_on, seconds=0)
    message = str(raised.value)
    assert f"at {proxy.host}:{proxy.port} cannot be reached, after 0 s: " in message
    assert f"{server.upper()}_HOST and {server.upper()}_PORT" in message


def test_a_name_without_an_address_is_waited_for(named: Settings, server: str) -> None:
    nowhere = named.model_copy(update={f"{server}_host": "nowhere.invalid"})
    assert not await_servers(nowhere, stop)


def test_a_stop_ends_the_wait(behind: Settings, proxy: TcpProxy) -> None:
    proxy.refuse()
    assert not await_servers(behind, stop)


def test_a_wrong_password_is_not_waited_for(named: Settings, server: str) -> None:
    secret = type(named.postgres_password)(PASSWORD)
    wrong = named.model_copy(update={f"{server}_password": secret})
    with pytest.raises(ServiceError, match="check the user") as raised:
        await_servers(wrong, no_pause)
    assert PASSWORD not in str(raised.value)


def test_a_database_that_does_not_exist_is_not_waited_for(named: Settings) -> None:
    with pytest.raises(ServiceError, match="nothing_of_this_name"):
        await_database(replace(results_database(named), database="nothing_of_this_name"), no_pause)


def test_a_virtual_host_that_does_not_exist_is_not_waited_for(named: Settings) -> None:
    wrong = named.model_copy(update={"rabbitmq_vhost": "nothing-of-this-name"})
    with pytest.raises(ServiceError, match="nothing-of-this-name"):
        await_servers(wrong, no_pause)


def test_a_file_of_authorities_that_is_none_is_not_waited_for(
    named: Settings, tmp_path: Path
) -> None:
    empty = tmp_path / "ca.pem"
    empty.touch()
    wrong = named.model_copy(update={"rabbitmq_tls": True, "rabbitmq_ca_file": empty})
    with pytest.raises(ServiceError, match="CA file"):
        await_servers(wrong, no_pause)
