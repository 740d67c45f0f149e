"""The comparison for people: Markdown tables, and two small plots as PNG in Markdown.

matplotlib takes longer to import than all else that a comparison does, and nothing else needs it:
it is imported where a plot is drawn.
"""

from __future__ import annotations

from base64 import b64encode
from datetime import timedelta
from io import BytesIO
from typing import TYPE_CHECKING
from warnings import catch_warnings, simplefilter

import numpy as np

from sim_pipeline.metrics import METRICS, UNITS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from sim_pipeline.store.comparison import Comparison, History

_SIZE = (9.0, 6.0)
_DPI = 80
# A plot is kept with each materialization, so that it had better be small: lines on white do with
# so many colours, at a third of the bytes.
_COLOURS = 64
# What a point of the history stands for, unless a window is longer.
_STEP = timedelta(hours=3)


def table(ranking: Sequence[Comparison], hours: int, metric: str) -> str:
    """Return a metric's ranking over a period as a Markdown table.

    The UI shows a text of less than 1,000 characters as it is, others only when asked to: this is
    one up to a dozen models.
    """
    lines = ["| rank | model | p50 | p95 | against the day before |", "|---:|---|---:|---:|---:|"]
    for one in ranking:
        if (one.hours, one.metric) == (hours, metric):
            trend = "" if one.trend is None else f"{one.trend:+.1%}"
            lines.append(
                f"| {one.rank} | {one.llm_name} | {one.p50:.4g} | {one.p95:.4g} | {trend} |"
            )
    return "\n".join(lines)


def ranges_plot(ranking: Sequence[Comparison], hours: int) -> str:
    """Draw from p50 to p95 of each model over a period, the best at the top, as Markdown."""
    figure, axes = _grid()
    for axis, metric in zip(axes, METRICS, strict=True):
        places = [one for one in ranking if one.hours == hours and one.metric == metric][::-1]
        heights = range(len(places))
        axis.hlines(
            heights, [one.p50 for one in places], [one.p95 for one in places], color="0.7", lw=3
        )
        axis.plot([one.p50 for one in places], heights, "o", color="C0", ms=5)
        axis.plot([one.p95 for one in places], heights, "|", color="C3", ms=9, mew=2)
        axis.set_yticks(heights, [one.llm_name for one in places])
        _label(axis, metric)
    figure.suptitle(f"Last {hours} hours: p50 (dot) to p95 (bar), best at the top", fontsize=10)
    return _markdown(figure)


def changes_plot(
    llm_names: Sequence[str], now: NDArray[np.float64], then: NDArray[np.float64]
) -> str:
    """Draw from p50 to p95 of each model as they are and as they would be, as Markdown.

    Args:
        llm_names: the models.
        now: their p50 and p95, shape (models, 4, 2), metrics in the order of `METRICS`.
        then: the same of a what-if.
    """
    figure, axes = _grid()
    # The first model at the top, and of each the what-if below.
    heights = np.arange(len(llm_names))[::-1]
    for place, (axis, metric) in enumerate(zip(axes, METRICS, strict=True)):
        for percentiles, offset, colour, label in (
            (now, 0.17, "0.55", "current"),
            (then, -0.17, "C0", "what if"),
        ):
            low, high = percentiles[:, place].T
            axis.hlines(heights + offset, low, high, color=colour, lw=2)
            axis.plot(low, heights + offset, "o", color=colour, ms=4, label=label)
            axis.plot(high, heights + offset, "|", color=colour, ms=7, mew=2)
        axis.set_yticks(heights, llm_names)
        axis.set_xlim(left=0)
        _label(axis, metric)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
    figure.suptitle("p50 (dot) to p95 (bar)", fontsize=10)
    return _markdown(figure)


def history_plot(history: History) -> str:
    """Draw each model's medians of three hours over the last seven days, as Markdown."""
    from matplotlib.dates import ConciseDateFormatter  # noqa: PLC0415 - see the top

    figure, axes = _grid()
    merged = max(1, _STEP // history.length)
    points = min(timedelta(days=7) // history.length, len(history.starts)) // merged
    shown = slice(len(history.starts) - points * merged, None)
    # Naive, and in UTC: what dates NumPy has.
    starts = np.array([start.replace(tzinfo=None) for start in history.starts[shown]], "M8[us]")
    medians = _median(history.p50[..., shown].reshape(*history.p50.shape[:2], points, merged))
    for place, (axis, metric) in enumerate(zip(axes, METRICS, strict=True)):
        for llm_name, series in zip(history.llm_names, medians[:, place], strict=True):
            # Also a value between two gaps is to be seen. Smooth edges would be most of the bytes.
            axis.plot(starts[::merged], series, ".-", ms=2, lw=1, antialiased=False, label=llm_name)
        dates = ConciseDateFormatter(axis.xaxis.get_major_locator())  # type: ignore[no-untyped-call]
        axis.xaxis.set_major_formatter(dates)
        axis.xaxis.get_offset_text().set_fontsize(7)
        axis.set_yscale("log")
        _label(axis, metric)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=7)
    figure.suptitle("Last seven days: medians", fontsize=10)
    return _markdown(figure)


def _median(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return medians over the last axis of what is there, NaN where nothing is."""
    with catch_warnings():
        simplefilter("ignore", RuntimeWarning)
        return np.nanmedian(values, axis=-1)


def _grid() -> tuple[Figure, list[Axes]]:
    # Not by pyplot, which looks for a display and keeps every figure until it is told not to.
    from matplotlib.figure import Figure  # noqa: PLC0415 - see the top

    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    return figure, list(figure.subplots(2, 2).flat)


def _label(axis: Axes, metric: str) -> None:
    axis.set_title(f"{metric} [{UNITS[metric]}]", fontsize=9)
    axis.tick_params(which="both", labelsize=7)
    axis.grid(axis="x", color="0.9")
    axis.set_axisbelow(True)


def _markdown(figure: Figure) -> str:
    from PIL import Image  # noqa: PLC0415 - comes with matplotlib

    drawn, small = BytesIO(), BytesIO()
    figure.savefig(drawn, format="png")
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(_COLOURS, Image.Quantize.MAXCOVERAGE).save(
            small, "png", optimize=True
        )
    return f"![plot](data:image/png;base64,{b64encode(small.getvalue()).decode()})"
