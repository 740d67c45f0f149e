"""Serves metrics for Prometheus: the alarms of docs/operations.md as numbers.

Each scrape queries both databases. The component k8s/components/metrics runs it, and has the rules
for its numbers.
"""

import logging
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import sqlalchemy as sa

from sim_pipeline import logs
from sim_pipeline.config import Settings, SettingsError, load_settings
from sim_pipeline.connections import dagster_database, results_database
from sim_pipeline.store.server_facts import ids_left

PORT = 9464
_PREFIX = "sim_pipeline_"
# For all queries of a scrape. Prometheus gives a scrape up after 10 s by default.
_SCRAPE_SECONDS = 8.0

# A column with our prefix is a metric, any other column is a label. Ages are in seconds. The ledger
# is queried for the models of the settings: it still has the windows of models that were removed.
_RESULTS_QUERIES = (
    """
    SELECT count(*) AS sim_pipeline_undelivered_windows,
           coalesce(extract(epoch FROM now() - min(created_at)), 0)
               AS sim_pipeline_undelivered_age_seconds
    FROM deliveries WHERE published_at IS NULL AND llm_name = ANY(:llm_names)
    """,
    # Reads one entry of each model.
    """
    SELECT m.llm_name,
           extract(epoch FROM now() - d.latest) AS sim_pipeline_latest_window_age_seconds
    FROM unnest(CAST(:llm_names AS text[])) AS m (llm_name)
    CROSS JOIN LATERAL (
        SELECT max("timestamp") AS latest FROM deliveries WHERE llm_name = m.llm_name
    ) AS d
    WHERE d.latest IS NOT NULL
    """,
    """
    SELECT count(*) AS sim_pipeline_postgres_connections,
           current_setting('max_connections')::int AS sim_pipeline_postgres_connection_limit
    FROM pg_stat_activity
    """,
)
_DAGSTER_QUERIES = (
    """
    SELECT count(*) AS sim_pipeline_failed_runs_last_hour FROM runs
    WHERE status = 'FAILURE' AND update_timestamp > now() AT TIME ZONE 'UTC' - interval '1 hour'
    """,
    """
    SELECT status, count(run_id) AS sim_pipeline_waiting_runs,
           coalesce(extract(epoch FROM now() AT TIME ZONE 'UTC' - min(create_timestamp)), 0)
               AS sim_pipeline_waiting_run_age_seconds
    FROM unnest(ARRAY['QUEUED', 'STARTING']) AS waiting (status) LEFT JOIN runs USING (status)
    GROUP BY status
    """,
    """
    SELECT daemon_type AS daemon, extract(epoch FROM now() AT TIME ZONE 'UTC' - "timestamp")
        AS sim_pipeline_heartbeat_age_seconds
    FROM daemon_heartbeats
    """,
)
_SIZE_QUERY = "SELECT current_database() AS database, pg_database_size(current_database()) AS size"

logger = logging.getLogger("sim_pipeline.metrics")


def metrics(settings: Settings) -> str:
    """Return all metrics in Prometheus' text format.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: a database is unreachable, or refuses or delays a query.
    """
    deadline = time.monotonic() + _SCRAPE_SECONDS
    results = results_database(settings)
    dagster = dagster_database(settings)
    models = {"llm_names": list(settings.llm_models)}
    samples: dict[str, list[str]] = {}
    _add(samples, {f"{_PREFIX}interval_seconds": settings.simulation_interval})
    for database, queries in ((results, _RESULTS_QUERIES), (dagster, _DAGSTER_QUERIES)):
        limited = replace(database, connect_timeout=max(2, int(deadline - time.monotonic())))
        engine = sa.create_engine(limited.url, poolclass=sa.NullPool)
        with engine.connect() as connection:
            for query in queries:
                _limit_next_statement(connection, deadline)
                for row in connection.execute(sa.text(query), models).mappings():
                    _add(samples, row)
            if database is results:
                _limit_next_statement(connection, deadline)
                left = ids_left(connection)
                if left is not None:
                    _add(samples, {f"{_PREFIX}row_ids_left": left})
            _limit_next_statement(connection, deadline)
            size = connection.exec_driver_sql(_SIZE_QUERY).mappings().one()
            _add(
                samples,
                {"database": size["database"], f"{_PREFIX}database_size_bytes": size["size"]},
            )
    return "".join(_lines(samples))


def _limit_next_statement(connection: sa.Connection, deadline: float) -> None:
    milliseconds = max(1, round(1000 * (deadline - time.monotonic())))  # 0 is no limit
    connection.exec_driver_sql(f"SET LOCAL statement_timeout = {milliseconds}")


def _add(samples: dict[str, list[str]], row: Mapping[Any, Any]) -> None:
    labels = ",".join(
        f'{name}="{_escaped(str(value))}"'
        for name, value in row.items()
        if not name.startswith(_PREFIX)
    )
    for name, value in row.items():
        if name.startswith(_PREFIX):
            samples.setdefault(name, []).append(f"{name}{{{labels}}} {float(value)}\n")


def _lines(samples: Mapping[str, list[str]]) -> Iterator[str]:
    for name, lines in samples.items():
        yield f"# TYPE {name} gauge\n"
        yield from lines


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def server(settings: Settings, port: int, host: str = "") -> ThreadingHTTPServer:
    """Return a server of /metrics and, for probes, /healthz, which needs no database."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            match self.path.partition("?")[0]:
                case "/metrics":
                    try:
                        status, text = HTTPStatus.OK, metrics(settings)
                    except sa.exc.SQLAlchemyError as error:
                        reason = " ".join(str(getattr(error, "orig", error)).split())
                        logger.warning("No metrics: %s", reason)
                        status, text = HTTPStatus.SERVICE_UNAVAILABLE, f"{reason}\n"
                case "/healthz":
                    status, text = HTTPStatus.OK, "ok\n"
                case _:
                    status, text = HTTPStatus.NOT_FOUND, "The metrics are at /metrics\n"
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Log no requests: probes and scrapes come every few seconds."""

    return ThreadingHTTPServer((host, port), Handler)


def main(port: int = PORT) -> int:
    """Serve metrics until SIGTERM.

    Args:
        port: TCP port to listen on, at all addresses.

    Returns:
        The exit status: 2 if the settings are invalid, after a message that names them.
    """
    try:
        settings = load_settings()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    logs.configure(settings)
    # A container's first process ignores signals without a handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server(settings, port=port).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
