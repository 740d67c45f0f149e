"""Detection of regressions: a model's median is worse than its usual range at a similar load.

The level of a stretch is the middle one of the medians of three hours (or windows, if longer), so
one bad hour or one slow request is no regression. The latest stretch is compared with the stretches
of the past eight days with a similar or higher load. The limit is a factor beyond the 95th
percentile of their levels. RPS is not checked: it is the load. docs/comparison.md has the measured
false alarms and detections.
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
FACTORS: Final[Mapping[str, float]] = MappingProxyType(
    {"TTFT": 1.35, "TPS": 1.15, "e2e_latency": 1.75}
)
"""Distance of the limit from the 95th percentile. TPS varies least from request to request, so its
limit is the closest; e2e_latency varies with the number of output tokens."""


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
    for metric, factor in FACTORS.items():
        sign = 1.0 if metric in LOWER_IS_BETTER else -1.0
        # Higher is worse, on a log scale.
        medians = sign * np.log(history.p50[:, METRICS.index(metric)])
        levels = np.median(_stretches(medians), axis=-1)
        for llm_name, level, loads in zip(history.llm_names, levels, load, strict=True):
            limit = _limit(level[:-STRETCH], loads[:-STRETCH] >= LOAD * loads[-1], factor)
            if limit is not None and level[-1] > limit:
                p50, end = (float(np.exp(sign * value)) for value in (level[-1], limit))
                found.append(Regression(llm_name, metric, since, until, p50, end))
    return found


def _stretches(series: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return all stretches of a (models, buckets) array: shape (models, stretches, `STRETCH`)."""
    return np.lib.stride_tricks.sliding_window_view(series, STRETCH, axis=-1)


def _limit(
    levels: NDArray[np.float64], comparable: NDArray[np.bool_], factor: float
) -> float | None:
    known = levels[comparable & np.isfinite(levels)]
    if len(known) < MINIMUM:
        return None
    return float(np.percentile(known, 95) + np.log(factor))
