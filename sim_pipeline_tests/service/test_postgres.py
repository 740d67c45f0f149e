"""The private PostgreSQL server."""

from sqlalchemy import create_engine

from sim_pipeline.service.postgres import LocalPostgres


def test_a_database_is_made_once(postgres_server: LocalPostgres) -> None:
    postgres_server.ensure_database('a "quoted" name')
    postgres_server.ensure_database('a "quoted" name')
    engine = create_engine(postgres_server.url('a "quoted" name'))
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
    engine.dispose()
