"""Waits until the user's own PostgreSQL and RabbitMQ accept connections.

This module decides how long to wait and which errors to retry. The settings hold the addresses.
"""

import logging
import time
from collections.abc import Callable

from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.broker.connection import Session
from sim_pipeline.broker.errors import BrokerError
from sim_pipeline.broker.pika_logging import quiet_pika
from sim_pipeline.config import Settings
from sim_pipeline.connections import dagster_database, message_broker, results_database
from sim_pipeline.errors import ServiceError
from sim_pipeline.local_servers.ports import address
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.errors import StoreError, translate_db_errors

Sleep = Callable[[float], bool]
"""Sleeps for the given seconds, or until a stop is requested. Returns whether it was requested."""

TIMEOUT_SECONDS = 120.0
"""For each server. A server that starts now, and first creates its data, takes about a minute."""

_RETRY_SECONDS = 1.0

logger = logging.getLogger(__name__)


def await_servers(settings: Settings, sleep: Sleep, timeout: float = TIMEOUT_SECONDS) -> bool:
    """Wait until both databases and the broker that the settings name accept connections.

    Declares the queue if it does not exist, so that a missing right shows at startup.

    Args:
        settings: validated settings.
        sleep: waits between two attempts.
        timeout: how long to wait for each server [s].

    Returns:
        True if all accept connections, False if a stop was requested during the wait.

    Raises:
        ServiceError: a server cannot be reached in time, or refuses the connection. Wrong
            credentials, for example, are reported at once.
    """
    return (
        await_database(results_database(settings), sleep, timeout)
        and await_database(dagster_database(settings), sleep, timeout)
        and _await_broker(settings, sleep, timeout)
    )


def await_database(postgres: Postgres, sleep: Sleep, timeout: float = TIMEOUT_SECONDS) -> bool:
    """Wait until one database accepts connections, as `await_servers` does."""
    try:
        return _await_connection(
            lambda: _connect_database(postgres),
            f"PostgreSQL at {address(postgres.host, postgres.port)}",
            "POSTGRES_HOST and POSTGRES_PORT",
            sleep,
            timeout,
        )
    finally:
        postgres.engine.dispose()


def _await_broker(settings: Settings, sleep: Sleep, timeout: float) -> bool:
    config = message_broker(settings)
    return _await_connection(
        lambda: _connect_broker(config),
        f"RabbitMQ at {address(config.host, config.port)}",
        "RABBITMQ_HOST and RABBITMQ_PORT",
        sleep,
        timeout,
    )


def _connect_database(postgres: Postgres) -> None:
    with translate_db_errors(postgres), postgres.engine.connect():
        pass


def _connect_broker(config: BrokerConfig) -> None:
    with quiet_pika():
        Session(config).close()


def _await_connection(
    connect: Callable[[], None], server: str, variables: str, sleep: Sleep, timeout: float
) -> bool:
    deadline = time.monotonic() + timeout
    logged = False
    while True:
        try:
            connect()
        except (StoreError, BrokerError) as error:
            if not error.retryable:
                raise ServiceError(str(error)) from error
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"{server} cannot be reached within {timeout:g} s: {error}"
                    f" ({variables} set the address)"
                ) from error
            if not logged:
                logger.info("Waiting for %s, up to %g s: %s", server, timeout, error)
                logged = True
        else:
            return True
        if sleep(_RETRY_SECONDS):
            return False
