"""Requirements on a PostgreSQL server and database, checked at startup, each with its message.

The session settings are checked too, because a pooler can drop them.
"""

from typing import Final

import sqlalchemy as sa

from sim_pipeline.store.connection import SESSION_SETTINGS
from sim_pipeline.store.schema import simulation_results

_MINIMUM_VERSION: Final = 15

_FACTS: Final = sa.text(
    """
    SELECT current_setting('server_version_num')::int / 10000 AS version,
        current_setting('server_version') AS version_text,
        current_setting('server_encoding') AS server_encoding,
        current_setting('client_encoding') AS client_encoding,
        pg_is_in_recovery() AS standby,
        has_database_privilege(current_database(), 'TEMP') AS temp,
        current_schema() AS schema,
        current_setting('search_path') AS search_path,
        current_setting('transaction_timeout', true) AS transaction_timeout,
        current_user AS role
    """
)

_SESSION: Final = sa.text(
    "SELECT name, current_setting(name) AS value FROM unnest(CAST(:names AS text[])) AS name"
)

# If the sequence was restarted below existing rows, the ids end at the first of these rows.
_IDS_LEFT: Final = sa.text(
    f"""
    SELECT coalesce(
        (SELECT min(id) FROM {simulation_results.name} WHERE id > last_value), {2**31}
    ) - last_value - 1
    FROM (
        SELECT coalesce(last_value, 0) AS last_value FROM pg_sequences
        WHERE schemaname = current_schema() AND sequencename = '{simulation_results.name}_id_seq'
    ) AS s
    """
)
# A quarter of all ids. Nine models with a window each second use that many in half a year.
_WARN_BELOW: Final = 2**31 // 4


def unmet_requirements(connection: sa.Connection, *, temporary_tables: bool = True) -> list[str]:
    """Return a message for each requirement that a database does not meet; none if it is fit.

    Args:
        connection: to the database.
        temporary_tables: whether the role must be allowed to create temporary tables, which the
            writer of results needs.
    """
    facts = connection.execute(_FACTS).one()
    unmet = []
    if facts.version < _MINIMUM_VERSION:
        unmet.append(f"its version is {facts.version_text}: allowed is {_MINIMUM_VERSION} or newer")
    if facts.server_encoding != "UTF8":
        unmet.append(
            f"its encoding is {facts.server_encoding}: allowed is UTF8, as in"
            " CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
        )
    if facts.standby:
        unmet.append("it is a standby, which is read-only: allowed is the primary")
    if facts.schema is None:
        unmet.append(
            f"the search_path of role {facts.role!r} is {facts.search_path!r}, which names no"
            " existing schema: set it to an existing schema, such as public"
        )
    if temporary_tables and not facts.temp:
        unmet.append(
            f"role {facts.role!r} may not create temporary tables: run GRANT TEMPORARY ON DATABASE"
        )
    if facts.transaction_timeout not in (None, "0"):
        unmet.append(
            f"transaction_timeout is {facts.transaction_timeout}: allowed is 0, as in ALTER ROLE"
            f' "{facts.role}" SET transaction_timeout = 0'
        )
    return unmet + _unmet_session_settings(connection, facts.client_encoding)


def _unmet_session_settings(connection: sa.Connection, client_encoding: str) -> list[str]:
    rows = connection.execute(_SESSION, {"names": list(SESSION_SETTINGS)})
    found = {row.name: row.value for row in rows}
    wrong = {
        name: found[name]
        for name, wanted in SESSION_SETTINGS.items()
        # DateStyle is reported with the order of day and month, which is irrelevant for ISO.
        if found[name].partition(",")[0] != wanted
    }
    if client_encoding != "UTF8":
        wrong["client_encoding"] = client_encoding
    if not wrong:
        return []
    settings = ", ".join(f"{name} = {value}" for name, value in wrong.items())
    message = (
        f"a session has {settings} instead of the value requested in the startup parameter"
        " `options`: configure the pooler in between to pass `options` on, or to set the same value"
    )
    return [message]


def ids_left(connection: sa.Connection) -> int | None:
    """Return how many ids of `simulation_results` are left, or None if it has no sequence.

    Args:
        connection: to the results database, whose tables exist.
    """
    left: int | None = connection.scalar(_IDS_LEFT)
    return left


def ids_running_out(connection: sa.Connection) -> str | None:
    """Return a warning if few ids of `simulation_results` are left, else None.

    Args:
        connection: to the results database, whose tables exist.
    """
    left = ids_left(connection)
    if left is None or left >= _WARN_BELOW:
        return None
    return (
        f"{simulation_results.name} has {left:,} ids left. After the last one no row can be stored:"
        ' follow docs/operations.md, "When the ids run out", before that'
    )
