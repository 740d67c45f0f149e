"""A CSV file of quantiles, one row for each metric and load.

The columns are ``metric``, quantiles such as ``p05`` or ``p50``, and optionally ``mean``, ``unit``,
``rate`` [requests/s], ``concurrency`` and ``requests``.
"""

from collections.abc import Sequence
from dataclasses import replace

from sim_pipeline.fit.formats.csv_columns import (
    Column,
    Row,
    load_source,
    loads,
    parse_column,
    unit_seconds,
)
from sim_pipeline.fit.formats.fields import SECONDS_PER, Fields, level_of, shown
from sim_pipeline.fit.measurement import Distribution, LoadPoint, MeasurementError, complete

_METRICS = ("ttft", "itl", "tps", "e2e", "input_tokens", "output_tokens")


def recognises(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the header of ``rows`` has a metric and quantiles."""
    header = {name.lower() for name in rows[0]}
    return "metric" in header and any(level_of(name) for name in header)


def read(source: str, rows: Sequence[Sequence[str]]) -> list[LoadPoint]:
    """Return one load point for each pair of rate and concurrency.

    Raises:
        MeasurementError: a metric is unknown or given twice for a load, or a value is invalid.
    """
    rows = [[name.lower() for name in rows[0]], *rows[1:]]
    groups = loads(source, rows)
    points = []
    for load, group in groups.items():
        metrics: dict[str, Distribution] = {}
        for row in group:
            column = _metric(row)
            if column.quantity in metrics:
                raise MeasurementError(
                    f"{row.where}: metric {column.name} is given twice for one load: must be once; "
                    "loads differ in the columns rate or concurrency"
                )
            metrics[column.quantity] = _distribution(row, column)
        counts = [metric.count for metric in metrics.values() if metric.count is not None]
        point = LoadPoint(
            source=load_source(source, load, len(groups)),
            tool="CSV of quantiles",
            completed=max(counts, default=None),
            rate=load[0] or None,
            concurrency=load[1] or None,
            input_tokens=metrics.get("input_tokens"),
            output_tokens=metrics.get("output_tokens"),
            ttft=metrics.get("ttft"),
            itl=metrics.get("itl"),
            tps=metrics.get("tps"),
            e2e=metrics.get("e2e"),
        )
        points.append(complete(point))
    return points


def _metric(row: Row) -> Column:
    name = row.cells.get("metric", "")
    unit = row.cells.get("unit", "").lower()
    column = parse_column(name)
    if column.quantity not in _METRICS:
        raise MeasurementError(
            f"{row.where}: metric is {shown(name)}: must be one of {', '.join(_METRICS)}, "
            "or a time with its unit, such as ttft_ms"
        )
    if column.quantity not in ("ttft", "itl", "e2e") or not unit:
        return column
    if unit not in SECONDS_PER or column.unit not in ("", unit):
        raise MeasurementError(
            f"{row.where}: unit is {shown(unit)}: must be {column.unit or 's or ms'} for {name}"
        )
    return replace(column, unit=unit)


def _distribution(row: Row, column: Column) -> Distribution:
    fields = Fields(
        row.where, {n: row.number(n) for n in row.cells if level_of(n) or n in ("mean", "requests")}
    )
    count = fields.count("requests")
    given = fields.distribution(count=count)
    if given is None:
        raise MeasurementError(f"{row.where}: {column.name} has no value: must have a quantile")
    values = list(given.quantiles.values())
    middle = given.middle or values[len(values) // 2]
    unit_s = unit_seconds(row.where, column, middle)
    return Distribution(
        {level: value * unit_s for level, value in given.quantiles.items()},
        None if given.mean is None else given.mean * unit_s,
        count,
    )
