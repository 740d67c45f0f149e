"""A plot of measured and simulated quantiles, and of the time between tokens by load.

matplotlib is imported in the functions that draw, because its import takes longer than a fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sim_pipeline.fit.loads import MEAN, METRICS
from sim_pipeline.simulator.calibration import calibrated

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from sim_pipeline.fit.solve import Fit

_UNITS = {"ttft": "TTFT [s]", "tps": "TPS [tokens/s]"}
_MANY_LOADS = 10


def save_plot(fit: Fit, path: Path) -> None:
    """Draw a fit to a PNG file.

    Raises:
        OSError: the file cannot be written.
    """
    # Not pyplot: it looks for a display, and keeps every figure until it is closed.
    from matplotlib.figure import Figure  # noqa: PLC0415 - see the module docstring

    several = len(fit.loads) > 1 and fit.loads[0].decoding is not None
    figure = Figure(figsize=(4.2 * (3 if several else 2), 3.6), dpi=100, layout="constrained")
    axes = figure.subplots(1, 3 if several else 2)
    for axis, metric in zip(axes, METRICS, strict=False):
        _quantiles(axis, fit, metric)
    if several:
        _time_per_token(axes[2], fit)
    title = figure.suptitle(f"{fit.profile.name}: measured (dots) and simulated (lines)")
    title.set_parse_math(False)
    figure.savefig(path)


def _quantiles(axis: Axes, fit: Fit, metric: str) -> None:
    for load in sorted({quantile.load for quantile in fit.quantiles}):
        quantiles = sorted(
            (q for q in fit.quantiles if (q.load, q.metric) == (load, metric)),
            key=lambda quantile: quantile.level,
        )
        levels = [0.5 if q.level == MEAN else q.level for q in quantiles]
        colour = f"C{load % _MANY_LOADS}"
        rate = fit.loads[load].rate
        label = f"{rate:.3g} requests/s" if rate else None
        axis.plot(levels, [q.measured for q in quantiles], "o", color=colour, ms=4)
        style = "-" if len(levels) > 1 else "_"
        axis.plot(levels, [q.simulated for q in quantiles], style, color=colour, label=label)
    axis.set(yscale="log", xlabel="quantile", title=_UNITS[metric], xlim=(0, 1))
    axis.grid(color="0.9")
    if axis.get_legend_handles_labels()[1]:
        axis.legend(fontsize=7)


def _time_per_token(axis: Axes, fit: Fit) -> None:
    decoding = [load.decoding or 0.0 for load in fit.loads]
    axis.plot(decoding, [1e3 * load.itl for load in fit.loads], "o", color="C0", ms=4)
    grid = np.linspace(0.0, 1.1 * max(decoding), 200)
    axis.plot(grid, 1e3 * calibrated(fit.profile).itl(grid), "-", color="C0")
    highest = 1.2 * max(1e3 * load.itl for load in fit.loads)
    axis.set(xlabel="requests that decode", title="time between tokens [ms]", ylim=(0, highest))
    axis.grid(color="0.9")
