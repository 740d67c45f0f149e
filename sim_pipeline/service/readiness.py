"""Servers that are not ours: waited for while they start up, with a bound.

What belongs here: how long, and for which answers, it is worth asking again. Where the servers are
stands in the settings.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.broker.connection import Session
from sim_pipeline.broker.errors import BrokerError
from sim_pipeline.broker.pika_logging import quiet_pika
from sim_pipeline.config import Settings
from sim_pipeline.connections import message_broker, results_database
from sim_pipeline.errors import ServiceError
from sim_pipeline.local_servers.ports import address
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.error_translation import translate_db_errors
from sim_pipeline.store.errors import StoreError

Pause = Callable[[float], bool]
"""Waits so many seconds, or until a stop was asked for; tells whether it was."""

WAIT_SECONDS = 120.0
"""For each server. One that starts with this pipeline, and makes its data first, takes a minute."""

_PAUSE_SECONDS = 1.0

logger = logging.getLogger(__name__)


def await_servers(settings: Settings, pause: Pause, seconds: float = WAIT_SECONDS) -> bool:
    """Wait for the databases and the broker that the settings name.

    The queue is declared where it does not exist: that the user may is seen now.

    Args:
        settings: as validated.
        pause: waits between two attempts.
        seconds: how long to wait for each.

    Returns:
        Whether all of them are there; False where a stop was asked for meanwhile.

    Raises:
        ServiceError: one cannot be reached in time, or refuses: wrong credentials are not waited
            for.
    """
    results = results_database(settings)
    return (
        await_database(results, pause, seconds)
        and await_database(replace(results, database=settings.dagster_postgres_db), pause, seconds)
        and _await_broker(settings, pause, seconds)
    )


def await_database(postgres: Postgres, pause: Pause, seconds: float = WAIT_SECONDS) -> bool:
    """Wait for one database, as `await_servers` does."""
    try:
        return _await_answer(
            lambda: _ask_database(postgres),
            f"PostgreSQL at {address(postgres.host, postgres.port)}",
            "POSTGRES_HOST and POSTGRES_PORT",
            pause,
            seconds,
        )
    finally:
        postgres.engine.dispose()


def _await_broker(settings: Settings, pause: Pause, seconds: float) -> bool:
    config = message_broker(settings)
    return _await_answer(
        lambda: _ask_broker(config),
        f"RabbitMQ at {address(config.host, config.port)}",
        "RABBITMQ_HOST and RABBITMQ_PORT",
        pause,
        seconds,
    )


def _ask_database(postgres: Postgres) -> None:
    with translate_db_errors(postgres), postgres.engine.connect():
        pass


def _ask_broker(config: BrokerConfig) -> None:
    with quiet_pika():
        Session(config).close()


def _await_answer(
    ask: Callable[[], None], server: str, variables: str, pause: Pause, seconds: float
) -> bool:
    deadline = time.monotonic() + seconds
    told = False
    while True:
        try:
            ask()
        except (StoreError, BrokerError) as error:
            if not error.retryable:
                raise ServiceError(str(error)) from error
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"{server} cannot be reached, after {seconds:g} s: {error} (set by {variables})"
                ) from error
            if not told:
                logger.info("Waiting for %s, up to %g s: %s", server, seconds, error)
                told = True
        else:
            return True
        if pause(_PAUSE_SECONDS):
            return False
