"""A CSV file of requests, one row for each.

The columns are ``ttft``, and one of ``tps``, ``itl``, or ``e2e`` with ``output_tokens``; optionally
``input_tokens``, ``timestamp``, ``error``, ``success``, ``rate`` [requests/s] and ``concurrency``.
Times have their unit in the name, such as ``ttft_ms``.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import median

from sim_pipeline.fit.formats.csv_columns import (
    Column,
    Row,
    columns_of,
    load_source,
    loads,
    parse_column,
    unit_seconds,
)
from sim_pipeline.fit.formats.fields import shown
from sim_pipeline.fit.measurement import LoadPoint, MeasurementError, Request, from_requests

_VALUES = ("ttft", "itl", "tps", "e2e", "input_tokens", "output_tokens")
_NO_ERROR = frozenset({"", "0", "false", "no", "none", "null", "nan"})
_YES, _NO = frozenset({"1", "true", "yes", "ok"}), frozenset({"0", "false", "no"})

# A time stamp above this is in milliseconds, microseconds or nanoseconds since 1970.
_MAX_EPOCH_SECONDS = 1e11


def recognises(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the header of ``rows`` has a TTFT or a TPS."""
    return any(parse_column(name).quantity in ("ttft", "tps", "itl") for name in rows[0])


def read(source: str, rows: Sequence[Sequence[str]]) -> list[LoadPoint]:
    """Return one load point for each pair of rate and concurrency, one if there are none.

    Raises:
        MeasurementError: a value is invalid, or the unit of a time is unknown.
    """
    columns = columns_of(source, rows[0])
    groups = loads(source, rows)
    values = {
        name: [row.number(columns[name].name) for group in groups.values() for row in group]
        for name in _VALUES
        if name in columns
    }
    units = {
        name: unit_seconds(source, columns[name], median(filter(None, numbers)))
        for name, numbers in values.items()
        if any(numbers)
    }
    return [
        _load_point(load_source(source, load, len(groups)), load, group, columns, units)
        for load, group in groups.items()
    ]


def _load_point(
    where: str,
    load: tuple[float | None, float | None],
    rows: Sequence[Row],
    columns: dict[str, Column],
    units: dict[str, float],
) -> LoadPoint:
    requests = []
    for row in rows:
        if _failed(row, columns):
            continue
        value = {
            name: number * unit
            for name, unit in units.items()
            if (number := row.number(columns[name].name))
        }
        if not value.keys() & {"ttft", "itl", "tps", "e2e"}:
            continue  # without any time, the request did not complete
        itl = value.get("itl") or (1 / value["tps"] if "tps" in value else None)
        requests.append(
            Request(
                ttft=value.get("ttft"),
                e2e=value.get("e2e"),
                itl=itl,
                input_tokens=value.get("input_tokens"),
                output_tokens=value.get("output_tokens"),
                start_s=_start(row, columns["timestamp"].name) if "timestamp" in columns else None,
            )
        )
    point = LoadPoint(
        source=where,
        tool="CSV of requests",
        failed=len(rows) - len(requests),
        rate=load[0] or None,
        concurrency=load[1] or None,
    )
    return from_requests(point, requests)


def _failed(row: Row, columns: dict[str, Column]) -> bool:
    if "error" in columns and row.cells.get(columns["error"].name, "").lower() not in _NO_ERROR:
        return True
    if "success" not in columns:
        return False
    name = columns["success"].name
    text = row.cells.get(name, "").lower()
    if text not in _YES | _NO:
        raise MeasurementError(f"{row.where}: {name} is {shown(text)}: must be true or false")
    return text in _NO


def _start(row: Row, name: str) -> float | None:
    """Return the time stamp in seconds: a number, or a date and time in ISO 8601."""
    text = row.cells.get(name, "")
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        number = row.number(name)
        while number is not None and number > _MAX_EPOCH_SECONDS:
            number /= 1000
        return number
    return time.replace(tzinfo=time.tzinfo or UTC).timestamp()
