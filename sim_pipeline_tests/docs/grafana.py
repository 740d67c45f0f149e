"""What Grafana makes of a query before PostgreSQL sees it: its variables, then its macros."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

_VARIABLE = re.compile(r"\$\{(\w+):sqlstring\}")
_MACRO = re.compile(r"\$(__\w+)\(([^)]*)\)")


@dataclass(frozen=True)
class View:
    """What is chosen at the top of the dashboard.

    Attributes:
        since: Start of the time shown.
        until: Its end.
        interval: Seconds between two points of a chart.
        variables: The chosen values of each variable.
    """

    since: datetime
    until: datetime
    interval: int
    variables: Mapping[str, Sequence[str]]

    def interpolate(self, sql: str) -> str:
        """Return the query as PostgreSQL gets it.

        Raises:
            KeyError: It names a variable that the dashboard does not have.
            ValueError: It has a macro that this knows nothing of, or something else is left over.
        """
        sql = sql.replace("$__interval", f"{self.interval}s")
        sql = _VARIABLE.sub(lambda found: _sql_strings(self.variables[found[1]]), sql)
        sql = _MACRO.sub(lambda found: self._macro(found[1], found[2]), sql)
        if "$" in sql:
            raise ValueError(f"neither a macro nor a variable: {sql[sql.index('$') :]!r}")
        return sql

    def _macro(self, name: str, arguments: str) -> str:
        column, *rest = (argument.strip() for argument in arguments.split(","))
        if name == "__timeFilter" and not rest:
            return f"{column} BETWEEN '{_moment(self.since)}' AND '{_moment(self.until)}'"
        if name == "__timeGroupAlias" and rest == [f"{self.interval}s"]:
            seconds = self.interval
            return f'floor(extract(epoch from {column})/{seconds})*{seconds} AS "time"'
        raise ValueError(f"unknown macro ${name}({arguments})")


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _sql_strings(values: Sequence[str]) -> str:
    return ",".join("'" + value.replace("'", "''") + "'" for value in values)
