"""Expands the variables and macros of a Grafana query, as Grafana does before it sends it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sim_pipeline.timestamps import format_timestamp

_VARIABLE = re.compile(r"\$\{(\w+):sqlstring\}")
_MACRO = re.compile(r"\$(__\w+)\(([^)]*)\)")


@dataclass(frozen=True)
class View:
    """The selection at the top of the dashboard.

    Attributes:
        since: start of the time range.
        until: end of the time range.
        interval: seconds between two points of a chart.
        variables: the selected values of each variable.
    """

    since: datetime
    until: datetime
    interval: int
    variables: Mapping[str, Sequence[str]]

    def interpolate(self, sql: str) -> str:
        """Return the query that PostgreSQL receives.

        Raises:
            KeyError: the query uses a variable that the dashboard does not define.
            ValueError: the query has an unknown macro, or another `$` that is not expanded.
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
            since, until = format_timestamp(self.since), format_timestamp(self.until)
            return f"{column} BETWEEN '{since}' AND '{until}'"
        if name == "__timeGroupAlias" and rest == [f"{self.interval}s"]:
            seconds = self.interval
            return f'floor(extract(epoch from {column})/{seconds})*{seconds} AS "time"'
        if (name, column, rest) == ("__timeFrom", "", []):
            return f"'{format_timestamp(self.since)}'"
        if (name, column, rest) == ("__timeTo", "", []):
            return f"'{format_timestamp(self.until)}'"
        raise ValueError(f"unknown macro ${name}({arguments})")


def _sql_strings(values: Sequence[str]) -> str:
    return ",".join("'" + value.replace("'", "''") + "'" for value in values)
