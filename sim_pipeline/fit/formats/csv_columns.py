"""What the columns of a CSV file of the user's own mean: the quantity, and the unit of a time."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sim_pipeline.fit.formats.fields import SECONDS_PER, finite, shown
from sim_pipeline.fit.measurement import MeasurementError

_NAMES: Final = {
    "ttft": ("ttft", "time_to_first_token"),
    "itl": ("itl", "inter_token_latency", "tpot", "time_per_output_token"),
    "e2e": ("e2e", "e2e_latency", "end_to_end_latency", "request_latency", "latency", "e2el"),
    "tps": ("tps", "tokens_per_second", "tokens_per_s", "output_token_throughput_per_user"),
    "input_tokens": ("input_tokens", "prompt_tokens", "input_len"),
    "output_tokens": ("output_tokens", "completion_tokens", "output_len"),
    "rate": ("rate", "rps", "request_rate"),
    "concurrency": ("concurrency",),
    "timestamp": ("timestamp", "start_time"),
    "error": ("error", "error_code", "error_msg"),
    "success": ("success", "successful", "completed"),
}
QUANTITIES: Final = {alias: quantity for quantity, names in _NAMES.items() for alias in names}
"""The quantity by every name of a column, without the unit."""

# Without a unit, a time is in seconds if its median is below the first number, and in milliseconds
# if it is above the second.
_SECONDS_BELOW_MS_ABOVE: Final = {"ttft": (5, 100), "itl": (0.5, 1), "e2e": (60, 600)}


@dataclass(frozen=True)
class Column:
    """A column's quantity, one of `QUANTITIES`, and the unit of a time; each "" if unknown."""

    name: str
    quantity: str = ""
    unit: str = ""


def parse_column(name: str) -> Column:
    """Return the meaning of a name such as "ttft_ms" or "TTFT (ms)"."""
    words = re.sub(r"[^a-z0-9µ]+", "_", name.lower()).strip("_")
    if words in QUANTITIES:
        return Column(name, QUANTITIES[words])
    start, _, unit = words.rpartition("_")
    quantity = QUANTITIES.get(start, "")
    if quantity in _SECONDS_BELOW_MS_ABOVE and unit in SECONDS_PER:
        return Column(name, quantity, unit)
    return Column(name)


def unit_seconds(where: str, column: Column, median: float | None) -> float:
    """Return the length of the column's unit [s], 1 if it is not a time.

    Raises:
        MeasurementError: the unit is not stated, and ``median`` could be in s and in ms.
    """
    limits = _SECONDS_BELOW_MS_ABOVE.get(column.quantity)
    if limits is None:
        return 1.0
    if column.unit:
        return SECONDS_PER[column.unit]
    if median is None or median < limits[0]:
        return 1.0
    if median > limits[1]:
        return SECONDS_PER["ms"]
    raise MeasurementError(
        f"{where}: {column.name} has no unit, and its median {median:g} could be in s or in ms: "
        f"name it {column.quantity}_s or {column.quantity}_ms"
    )


@dataclass(frozen=True)
class Row:
    """A row of a table: its cells by name of the column, and where it is, for error messages."""

    where: str
    cells: dict[str, str]

    def number(self, name: str) -> float | None:
        """Return a number >= 0; None if the cell is empty or absent.

        Raises:
            MeasurementError: the cell has anything else.
        """
        text = self.cells.get(name, "")
        if not text:
            return None
        try:
            number = finite(float(text))
        except ValueError:
            number = None
        if number is None or number < 0:
            raise MeasurementError(f"{self.where}: {name} is {shown(text)}: must be a number >= 0")
        return number


def _table(source: str, rows: Sequence[Sequence[str]]) -> Iterator[Row]:
    """Yield the rows below the header. Empty rows are skipped.

    Raises:
        MeasurementError: a row is longer than the header, or a name is in the header twice.
    """
    header = rows[0]
    for name in header:
        if header.count(name) > 1:
            raise MeasurementError(f"{source}: there are two columns {shown(name)}: must be one")
    for line, row in enumerate(rows[1:], 2):
        if len(row) > len(header):
            raise MeasurementError(
                f"{source}: row {line} has {len(row)} cells: must have {len(header)}, as the header"
            )
        if any(row):
            yield Row(f"{source}: row {line}", dict(zip(header, row, strict=False)))


def columns_of(source: str, header: Sequence[str]) -> dict[str, Column]:
    """Return the columns that have a meaning, by quantity.

    Raises:
        MeasurementError: two columns are the same quantity.
    """
    columns: dict[str, Column] = {}
    for name in header:
        column = parse_column(name)
        if column.quantity in columns:
            raise MeasurementError(
                f"{source}: the columns {columns[column.quantity].name} and {column.name} are both "
                f"{column.quantity}: must be one"
            )
        if column.quantity:
            columns[column.quantity] = column
    return columns


def loads(
    source: str, rows: Sequence[Sequence[str]]
) -> dict[tuple[float | None, float | None], list[Row]]:
    """Return the rows by rate and concurrency, each None if there is no such column.

    Raises:
        MeasurementError: there are no rows below the header, or see `columns_of`.
    """
    columns = columns_of(source, rows[0])
    groups = defaultdict(list)
    for row in _table(source, rows):
        rate, concurrency = (
            row.number(columns[name].name) if name in columns else None
            for name in ("rate", "concurrency")
        )
        groups[rate, concurrency].append(row)
    if not groups:
        raise MeasurementError(f"{source}: has no rows below the header: must have one")
    return groups


def load_source(source: str, load: tuple[float | None, float | None], number_of_loads: int) -> str:
    """Return the name of a load: the file, and rate and concurrency if there are several loads."""
    parts = [
        f"{name} {value:g}"
        for name, value in zip(("rate", "concurrency"), load, strict=True)
        if value is not None
    ]
    return f"{source}: {', '.join(parts)}" if parts and number_of_loads > 1 else source
