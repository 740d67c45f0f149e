"""Connection parameters of the store and the broker, made from the settings."""

from dataclasses import replace

from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.config import Settings
from sim_pipeline.store.connection import Postgres


def results_database(settings: Settings) -> Postgres:
    """Return the connection parameters of the results database."""
    return Postgres(
        host=settings.postgres_host,
        port=settings.postgres_port,
        user=settings.postgres_user,
        password=settings.postgres_password.get_secret_value(),
        database=settings.postgres_db,
        sslmode=settings.postgres_sslmode,
        sslrootcert=settings.postgres_sslrootcert,
    )


def dagster_database(settings: Settings) -> Postgres:
    """Return the connection parameters of the database of Dagster's storage."""
    return replace(results_database(settings), database=settings.dagster_postgres_db)


def message_broker(settings: Settings) -> BrokerConfig:
    """Return the connection parameters of the broker, and its queue."""
    return BrokerConfig(
        host=settings.rabbitmq_host,
        port=settings.rabbitmq_port,
        user=settings.rabbitmq_user,
        password=settings.rabbitmq_password.get_secret_value(),
        vhost=settings.rabbitmq_vhost,
        queue=settings.rabbitmq_queue,
        tls=settings.rabbitmq_tls,
        ca_file=settings.rabbitmq_ca_file,
    )
