"""Results of the benchmarks: measurements, baselines and limits, as a table and as JSON.

A row is one quantity, measured several times. It may have a baseline: a floor that nothing can
beat, or an alternative implementation. The baseline is measured as often and in turn, so that the
noise of the machine affects both; the result is then the ratio of each pair.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_HEADINGS = ("what", "unit", "ours", "baseline", "its value", "ratio", "limit", "", "n", "note")
_MANY = 100


@dataclass(frozen=True)
class Limit:
    """The limit of a row's median ratio, or of its median if it has no baseline.

    Attributes:
        value: the limit.
        at_least: whether the limit is a lower bound; by default it is an upper bound.
    """

    value: float
    at_least: bool = False

    def holds(self, figure: float) -> bool:
        """Return whether a figure meets the limit; NaN does not."""
        return figure >= self.value if self.at_least else figure <= self.value

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.value:g}"


@dataclass(frozen=True)
class Row:
    """A measured quantity.

    Attributes:
        what: the quantity.
        unit: the unit of it and of its baseline.
        ours: the measurements.
        baseline: the baseline; empty for none.
        baseline_values: its measurements, one for each of ours.
        limit: the limit of the median ratio, or of the median without a baseline.
        note: what a reader must know to interpret the figure.

    Raises:
        ValueError: there are no measurements, or the baseline has another number of them.
    """

    what: str
    unit: str
    ours: tuple[float, ...]
    baseline: str = ""
    baseline_values: tuple[float, ...] = ()
    limit: Limit | None = None
    note: str = ""

    def __post_init__(self) -> None:
        """Check the numbers of measurements."""
        expected = len(self.ours) if self.baseline else 0
        if not self.ours or len(self.baseline_values) != expected:
            raise ValueError(
                f"{self.what}: {len(self.ours)} measurements and {len(self.baseline_values)} of the"
                f" baseline: at least one is required, and {expected} of the baseline"
            )

    @property
    def ratios(self) -> tuple[float, ...]:
        """Ours divided by the baseline, for each pair of measurements."""
        return tuple(
            value / baseline if baseline else math.nan
            for value, baseline in zip(self.ours, self.baseline_values, strict=False)
        )

    @property
    def passed(self) -> bool | None:
        """True if the median meets the limit; None without a limit."""
        if self.limit is None:
            return None
        return self.limit.holds(statistics.median(self.ratios or self.ours))

    def as_json(self) -> dict[str, Any]:
        """Return the row with medians and spread, as values for JSON."""
        return {
            "what": self.what,
            "unit": self.unit,
            "ours": _summary(self.ours),
            "baseline": self.baseline or None,
            "baseline_values": _summary(self.baseline_values),
            "ratio": _summary(self.ratios),
            "limit": str(self.limit) if self.limit else None,
            "passed": self.passed,
            "note": self.note,
        }


def markdown(rows: Sequence[Row]) -> str:
    """Return a Markdown table of medians, with smallest and largest in brackets."""
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
        row.baseline,
        _spread(row.baseline_values),
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
