"""LOCAL_SERVICES: runs PostgreSQL and RabbitMQ for this checkout, configured by the settings."""

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from sim_pipeline.config import Settings, invalid_settings
from sim_pipeline.errors import ServiceError
from sim_pipeline.local_servers.ports import address
from sim_pipeline.local_servers.postgres import WHEEL, LocalPostgres
from sim_pipeline.local_servers.rabbitmq import LocalRabbitMQ

logger = logging.getLogger(__name__)


def require_programs(settings: Settings) -> None:
    """Reject LOCAL_SERVICES=true if PostgreSQL's programs are not installed, as in the image.

    Raises:
        SettingsError: the programs are not installed.
    """
    if settings.local_services and importlib.util.find_spec(WHEEL) is None:
        raise invalid_settings(
            f"LOCAL_SERVICES='true': the package {WHEEL.replace('_', '-')}, which contains"
            " PostgreSQL, is not installed; allowed here is false, with your own servers in"
            " POSTGRES_HOST and RABBITMQ_HOST"
        )


@contextmanager
def local_postgres(settings: Settings, directory: Path) -> Iterator[None]:
    """Run a PostgreSQL server with both databases while the context lasts.

    Raises:
        ServiceError: the server can't be started, POSTGRES_HOST is another machine, or
            POSTGRES_PASSWORD is empty.
    """
    _require_loopback("POSTGRES_HOST", settings.postgres_host)
    _require_password("POSTGRES_PASSWORD", settings.postgres_password)
    server = LocalPostgres(
        directory / "postgres",
        host=settings.postgres_host,
        port=settings.postgres_port,
        user=settings.postgres_user,
        password=settings.postgres_password.get_secret_value(),
    )
    logger.info("Starting PostgreSQL on %s", address(server.host, server.port))
    with server:
        for database in (settings.postgres_db, settings.dagster_postgres_db):
            server.ensure_database(database)
        yield


@contextmanager
def local_rabbitmq(settings: Settings, directory: Path) -> Iterator[None]:
    """Run a RabbitMQ server while the context lasts.

    Raises:
        ServiceError: RabbitMQ can't be installed or started, RABBITMQ_HOST is another machine, or
            RABBITMQ_PASSWORD is empty.
    """
    _require_loopback("RABBITMQ_HOST", settings.rabbitmq_host)
    _require_password("RABBITMQ_PASSWORD", settings.rabbitmq_password)
    server = LocalRabbitMQ(
        directory / "rabbitmq",
        host=settings.rabbitmq_host,
        port=settings.rabbitmq_port,
        user=settings.rabbitmq_user,
        password=settings.rabbitmq_password.get_secret_value(),
        vhost=settings.rabbitmq_vhost,
    )
    logger.info("Starting RabbitMQ on %s", address(server.host, server.port))
    with server:
        yield


def _require_password(variable: str, password: SecretStr) -> None:
    if not password.get_secret_value():
        raise ServiceError(
            f"{variable} is empty: LOCAL_SERVICES=true needs a password; set one in .env, or delete"
            " .env: make run then creates it with generated passwords"
        )


def _require_loopback(variable: str, host: str) -> None:
    if host not in ("127.0.0.1", "localhost", "::1"):
        raise ServiceError(
            f"{variable}={host!r}: allowed with LOCAL_SERVICES=true is 127.0.0.1, ::1 or localhost;"
            " set LOCAL_SERVICES=false to use your own servers"
        )
