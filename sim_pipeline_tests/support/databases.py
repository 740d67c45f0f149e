"""The databases of a server of the tests."""

from sim_pipeline.local_servers.postgres import LocalPostgres
from sim_pipeline.store.connection import Postgres


def database_in(server: LocalPostgres, name: str) -> Postgres:
    """Describe a database of the session's server."""
    return Postgres(
        host=server.host,
        port=server.port,
        user=server.user,
        password=server.password,
        database=name,
    )
