"""Detection of regressions: a model's median is worse than its usual range at a similar load.

The level of a stretch is the middle one of the medians of three hours (or windows, if longer), so
one bad hour or one slow request is no regression. The latest stretch is compared with the stretches
of the past eight days with a similar or higher load. The limit is a distance beyond the 95th
percentile of their levels. The distance is a number of standard deviations of an hour's median,
which are estimated as on Shewhart's chart for individual values: from the mean difference of
successive hours. So it fits models with much and with little noise. RPS is not checked: it is the
load. docs/comparison.md has the measured false alarms and detections.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim_pipeline.comparison.ranking import LOWER_IS_BETTER, History
from sim_pipeline.markdown import literal
from sim_pipeline.metrics import METRICS

STRETCH: Final = 3
"""Duration of a regression [hours, or windows if longer]."""
MINIMUM: Final = 24
"""Minimum number of comparable stretches; with fewer there is no result."""
LOAD: Final = 0.9
"""A stretch with at least this share of the latest load is comparable."""
DISTANCES: Final[Mapping[str, float]] = MappingProxyType(
    {"TTFT": 2.0, "TPS": 1.2, "e2e_latency": 1.6}
)
"""Distance of the limit from the 95th percentile, in standard deviations. TPS shows a slow endpoint
best, so most false alarms are allowed for it."""
SMALLEST_FACTOR: Final = 1.1
"""The distance is at least this factor: if a feed has many values, it also shows small changes."""
MEAN_RANGE: Final = 1.128
"""Mean difference of two values of a normal distribution, in standard deviations."""


@dataclass(frozen=True)
class Regression:
    """A median outside its usual range.

    Attributes:
        llm_name: the model.
        metric: the metric.
        since: start of the stretch.
        until: end of the stretch.
        p50: level of the stretch, in the metric's unit.
        limit: end of the usual range, in the metric's unit.
    """

    llm_name: str
    metric: str
    since: datetime
    until: datetime
    p50: float
    limit: float

    def __str__(self) -> str:
        """Return a description as Markdown."""
        side = "above" if self.p50 > self.limit else "below"
        return (
            f"{literal(self.llm_name)} {self.metric} {self.since:%Y-%m-%dT%H:%MZ} to"
            f" {self.until:%Y-%m-%dT%H:%MZ}: p50 {self.p50:.3g} is {side} the limit"
            f" {self.limit:.3g}"
        )


def find_regressions(history: History) -> list[Regression]:
    """Return the regressions of the latest stretch, by metric and model."""
    if len(history.starts) < STRETCH + MINIMUM:
        return []
    since, until = history.starts[-STRETCH], history.starts[-1] + history.length
    load = _stretches(history.p50[:, METRICS.index("RPS")]).mean(axis=-1)
    found = []
    for metric, distance in DISTANCES.items():
        sign = 1.0 if metric in LOWER_IS_BETTER else -1.0
        # Higher is worse, on a log scale.
        medians = sign * np.log(history.p50[:, METRICS.index(metric)])
        levels = np.median(_stretches(medians), axis=-1)
        for llm_name, hours, level, loads in zip(
            history.llm_names, medians, levels, load, strict=True
        ):
            usual = _usual_end(level[:-STRETCH], loads[:-STRETCH] >= LOAD * loads[-1])
            if usual is None:
                continue
            limit = usual + max(distance * _standard_deviation(hours), np.log(SMALLEST_FACTOR))
            if level[-1] > limit:
                p50, end = (float(np.exp(sign * value)) for value in (level[-1], limit))
                found.append(Regression(llm_name, metric, since, until, p50, end))
    return found


def _stretches(series: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return all stretches of a (models, buckets) array: shape (models, stretches, `STRETCH`)."""
    return np.lib.stride_tricks.sliding_window_view(series, STRETCH, axis=-1)


def _usual_end(levels: NDArray[np.float64], comparable: NDArray[np.bool_]) -> float | None:
    """Return the 95th percentile of comparable levels, or None if there are too few."""
    known = levels[comparable & np.isfinite(levels)]
    return float(np.percentile(known, 95)) if len(known) >= MINIMUM else None


def _standard_deviation(hours: NDArray[np.float64]) -> float:
    """Return the standard deviation of an hour's median; slow changes do not count."""
    return float(np.nanmean(np.abs(np.diff(hours)))) / MEAN_RANGE
