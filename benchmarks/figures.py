"""Figures of the benchmarks: what was measured, next to what, against which limit; and the table.

A row is one quantity, measured several times. Where there is something beside it (a floor that
cannot be beaten, or a peer that somebody would use instead), that was measured as often and by
turns, so that the noise of the machine meets both: what counts then is the ratio of each pair.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_HEADINGS = ("what", "unit", "ours", "beside", "of that", "ratio", "limit", "", "n", "note")
_MANY = 100


@dataclass(frozen=True)
class Limit:
    """What a row is held to: its ratio, or, where nothing stands beside it, its figure.

    Attributes:
        value: the limit.
        at_least: whether more is better; else less is.
    """

    value: float
    at_least: bool = False

    def holds(self, figure: float) -> bool:
        """Tell whether a figure keeps to the limit; NaN does not."""
        return figure >= self.value if self.at_least else figure <= self.value

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.value:g}"


@dataclass(frozen=True)
class Row:
    """A quantity that was measured.

    Attributes:
        what: was measured.
        unit: of it, and of what stands beside it.
        ours: each measurement.
        beside: what stands beside it; empty for nothing.
        others: each measurement of that; the nth is to be held against our nth.
        limit: of the median ratio, or of the median where nothing stands beside it.
        note: what a reader must know to read the figure rightly.

    Raises:
        ValueError: there is no measurement, or not as many of both.
    """

    what: str
    unit: str
    ours: tuple[float, ...]
    beside: str = ""
    others: tuple[float, ...] = ()
    limit: Limit | None = None
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse what has no median or no ratios."""
        expected = len(self.ours) if self.beside else 0
        if not self.ours or len(self.others) != expected:
            raise ValueError(
                f"{self.what}: {len(self.ours)} measurements next to {len(self.others)}:"
                " allowed is at least one, and as many beside it, or none where nothing is"
            )

    @property
    def ratios(self) -> tuple[float, ...]:
        """Ours over that beside it, pair by pair."""
        return tuple(
            one / other if other else math.nan
            for one, other in zip(self.ours, self.others, strict=False)
        )

    @property
    def passed(self) -> bool | None:
        """Whether the median keeps to the limit; None without one."""
        if self.limit is None:
            return None
        return self.limit.holds(statistics.median(self.ratios or self.ours))

    def as_json(self) -> dict[str, Any]:
        """Return everything, medians and spread included, as JSON takes it."""
        return {
            "what": self.what,
            "unit": self.unit,
            "ours": _summary(self.ours),
            "beside": self.beside or None,
            "others": _summary(self.others),
            "ratio": _summary(self.ratios),
            "limit": str(self.limit) if self.limit else None,
            "passed": self.passed,
            "note": self.note,
        }


def markdown(rows: Sequence[Row]) -> str:
    """Return a table: medians, the smallest and the largest in brackets."""
    cells = [_HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADINGS))]
    lines = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in cells
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.what,
        row.unit,
        _spread(row.ours),
        row.beside,
        _spread(row.others),
        _spread(row.ratios),
        str(row.limit or ""),
        {True: "pass", False: "FAIL", None: ""}[row.passed],
        str(len(row.ours)),
        row.note,
    )


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    middle = _number(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({_number(min(values))} to {_number(max(values))})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= _MANY else f"{value:.3g}"


def _summary(values: Sequence[float]) -> dict[str, Any] | None:
    if not values:
        return None
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "measurements": list(values),
    }
