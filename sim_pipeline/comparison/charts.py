"""Charts of the comparison and of a what-if: Markdown tables, and plots in Markdown or as SVG.

matplotlib is imported in the functions that draw: its import takes longer than the rest of a
comparison, and no other part of the pipeline needs it.
"""

from __future__ import annotations

from base64 import b64encode
from datetime import timedelta
from io import BytesIO
from types import MappingProxyType
from typing import TYPE_CHECKING, Final
from warnings import catch_warnings, simplefilter

import numpy as np

from sim_pipeline import markdown
from sim_pipeline.comparison.plot_labels import labels
from sim_pipeline.metrics import METRICS, UNITS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from sim_pipeline.comparison.plot_labels import Labels
    from sim_pipeline.comparison.ranking import Comparison, History
    from sim_pipeline.store.batches import SimulatedEvent

# Lengths in inches. A figure grows if its labels need more room: `_WIDTH` includes `_LABEL_WIDTH`
# for the labels beside each of the two plots in a row.
_WIDTH, _HEIGHT, _LABEL_WIDTH = 9.0, 6.0, 1.2
# A plot's title and scale, a row of labels, and the line that a legend draws before a label.
_MARGIN, _ROW, _HANDLE = 0.8, 0.16, 0.7
# The maximum number of columns of a legend, and the rows that fit into `_HEIGHT`.
_LEGEND_COLUMNS, _LEGEND_ROWS = 5, 2
_DPI = 80
# From here on, three digits would need an exponent.
_MANY_DIGITS = 999.5
# Each materialization stores its plots, so they must be small. 64 colours are enough for lines on
# white, at a third of the bytes.
_COLOURS = 64
# Time that a point of the history covers, unless a window is longer.
_STEP = timedelta(hours=3)
# Ten colours in ten line and marker styles distinguish a hundred models.
_COLOUR_COUNT = 10
_STYLES = (".-", "s--", "^:", "D-.", "x-", "v--", "P:", "<-.", "*-", ">--")
_MARKER_SPACING = 7

MARKED_EVENTS: Final[Mapping[str, str]] = MappingProxyType({"incident": "o", "level_shift": "D"})
"""The kinds of events that `history_plot` marks, and their markers."""


def table(ranking: Sequence[Comparison], hours: int, metric: str) -> str:
    """Return a metric's ranking over a period as a Markdown table.

    Up to a dozen models it has less than 1,000 characters. The UI shows longer text only on a
    click.
    """
    rows = [
        (
            one.rank,
            markdown.literal(one.llm_name),
            _with_interval(one.p50, one.p50_low, one.p50_high),
            _with_interval(one.p95, one.p95_low, one.p95_high),
            "" if one.trend is None else f"{one.trend:+.1%}",
        )
        for one in ranking
        if (one.hours, one.metric) == (hours, metric)
    ]
    return markdown.table(
        ("rank", "model", "p50 (95 % interval)", "p95 (95 % interval)", "change in a day"),
        "rlrrr",
        rows,
    )


def _with_interval(value: float, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return _short(value)
    return f"{_short(value)} ({_short(low)}-{_short(high)})"


def _short(value: float) -> str:
    """Return a number with three digits, or with all digits before the point if it has more."""
    return f"{value:.3g}" if abs(value) < _MANY_DIGITS else f"{value:.0f}"


def ranges_plot(ranking: Sequence[Comparison], hours: int) -> str:
    """Return a plot of each model's p50 to p95 over a period, best at the top, as Markdown.

    Thin lines through p50 and p95 are their 95 % intervals.
    """
    return _markdown(_ranges(ranking, hours))


def ranges_image(ranking: Sequence[Comparison], hours: int) -> str:
    """Return the plot of `ranges_plot` as the URL of an SVG image."""
    return _svg_url(_ranges(ranking, hours))


def _ranges(ranking: Sequence[Comparison], hours: int) -> Figure:
    ranked = [one for one in ranking if one.hours == hours]
    names = labels(sorted({one.llm_name for one in ranked}))
    figure, axes = _grid_of_rows(names)
    for axis, metric in zip(axes, METRICS, strict=True):
        places = [one for one in ranked if one.metric == metric][::-1]
        heights = np.arange(len(places))
        axis.hlines(
            heights, [one.p50 for one in places], [one.p95 for one in places], color="0.7", lw=3
        )
        for colour, ends in (
            ("C0", [(one.p50_low, one.p50_high) for one in places]),
            ("C3", [(one.p95_low, one.p95_high) for one in places]),
        ):
            # None becomes NaN, which is not drawn.
            low, high = np.array(ends, dtype=np.float64).reshape(-1, 2).T
            axis.hlines(heights, low, high, color=colour, lw=1)
        axis.plot([one.p50 for one in places], heights, "o", color="C0", ms=5)
        axis.plot([one.p95 for one in places], heights, "|", color="C3", ms=9, mew=2)
        # A thinking model answers later than the others by a factor of ten.
        axis.set_xscale("log")
        _plain_numbers(axis.xaxis)
        _name_rows(axis, heights, [one.llm_name for one in places], names)
        _format_axis(axis, metric)
    figure.suptitle(
        f"Last {hours} hours: p50 (dot) to p95 (bar) with 95 % intervals, best at the top",
        fontsize=10,
    )
    return figure


def changes_plot(
    llm_names: Sequence[str], baseline: NDArray[np.float64], candidate: NDArray[np.float64]
) -> str:
    """Return a plot of each model's p50 to p95 for both sides of a what-if, as Markdown.

    Args:
        llm_names: the models.
        baseline: p50 and p95 of the current inputs, in the metric's unit, shape (models, 4, 2),
            metrics in the order of `METRICS`.
        candidate: the same for the inputs of the what-if.
    """
    names = labels(llm_names)
    figure, axes = _grid_of_rows(names)
    # The first model is at the top; the candidate is below the baseline.
    heights = np.arange(len(llm_names))[::-1]
    for place, (axis, metric) in enumerate(zip(axes, METRICS, strict=True)):
        for percentiles, offset, colour, label in (
            (baseline, 0.17, "0.55", "current"),
            (candidate, -0.17, "C0", "what if"),
        ):
            low, high = percentiles[:, place].T
            axis.hlines(heights + offset, low, high, color=colour, lw=2)
            axis.plot(low, heights + offset, "o", color=colour, ms=4, label=label)
            axis.plot(high, heights + offset, "|", color=colour, ms=7, mew=2)
        _name_rows(axis, heights, llm_names, names)
        axis.set_xlim(left=0)
        _format_axis(axis, metric)
    handles, legends = axes[0].get_legend_handles_labels()
    figure.legend(handles, legends, loc="outside lower center", ncols=2, fontsize=8)
    figure.suptitle("p50 (dot) to p95 (bar)", fontsize=10)
    return _markdown(figure)


def history_plot(history: History, events: Sequence[SimulatedEvent] = ()) -> str:
    """Return a plot of each model's three-hour medians over the last seven days, as Markdown.

    Args:
        history: the medians.
        events: those of `MARKED_EVENTS` are marked on the line of their model.
    """
    return _markdown(_history(history, events))


def history_image(history: History, events: Sequence[SimulatedEvent]) -> str:
    """Return the plot of `history_plot` as the URL of an SVG image."""
    return _svg_url(_history(history, events))


def _history(history: History, events: Sequence[SimulatedEvent]) -> Figure:
    from matplotlib.dates import ConciseDateFormatter  # noqa: PLC0415 - see the module docstring

    names = labels(history.llm_names)
    figure, axes, columns = _grid_with_legend(names)
    merged = max(1, _STEP // history.length)
    points = min(timedelta(days=7) // history.length, len(history.starts)) // merged
    shown = slice(len(history.starts) - points * merged, None)
    # NumPy's dates have no time zone; these are UTC.
    starts = np.array([start.replace(tzinfo=None) for start in history.starts[shown]], "M8[us]")
    edges = np.append(starts[::merged], starts[-1:] + np.timedelta64(history.length))
    medians = _median(history.p50[..., shown].reshape(*history.p50.shape[:2], points, merged))
    for place, (axis, metric) in enumerate(zip(axes, METRICS, strict=True)):
        for index, series in enumerate(medians[:, place]):
            style, colour = divmod(index, _COLOUR_COUNT)
            # Antialiasing would take most of the bytes.
            axis.plot(
                starts[::merged],
                series,
                _STYLES[style % len(_STYLES)],
                color=f"C{colour}",
                ms=4 if style else 2,
                markevery=_marker_mask(series, index) if style else None,
                lw=1,
                antialiased=False,
            )
        for event in events:
            if event.kind in MARKED_EVENTS and event.llm_name in history.llm_names:
                index = history.llm_names.index(event.llm_name)
                _mark(axis, event, edges, medians[index, place], index)
        dates = ConciseDateFormatter(axis.xaxis.get_major_locator())  # type: ignore[no-untyped-call]
        axis.xaxis.set_major_formatter(dates)
        axis.xaxis.get_offset_text().set_fontsize(7)
        axis.set_yscale("log")
        _plain_numbers(axis.yaxis)
        _format_axis(axis, metric)
    legend = figure.legend(
        axes[0].get_lines()[: len(names.texts)],
        list(names.texts.values()),
        loc="outside lower center",
        ncols=columns,
        prop=names.font,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    figure.suptitle(
        "Last seven days: medians. Circle: incident, diamond: lasting change of speed", fontsize=10
    )
    return figure


def _mark(
    axis: Axes,
    event: SimulatedEvent,
    edges: NDArray[np.datetime64],
    series: NDArray[np.float64],
    index: int,
) -> None:
    """Mark an event on the series of its model, at the point in which it starts.

    Args:
        axis: the plot.
        event: the event; it is not marked if it starts in none of the points.
        edges: the start of each point, and the end of the last.
        series: the value of each point.
        index: of the model.
    """
    at = np.datetime64(event.started_at.replace(tzinfo=None), "us")
    point = np.searchsorted(edges, at, side="right") - 1
    if 0 <= point < len(series):
        axis.plot(
            edges[point],
            series[point],
            MARKED_EVENTS[event.kind],
            ms=7,
            mfc="none",
            mec=f"C{index % _COLOUR_COUNT}",
            zorder=3,
        )


def _median(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return medians over the last axis, ignoring NaN; NaN if there is no value."""
    with catch_warnings():
        simplefilter("ignore", RuntimeWarning)
        return np.nanmedian(values, axis=-1)


def _marker_mask(series: NDArray[np.float64], index: int) -> NDArray[np.bool_]:
    """Return which points of a model's series get a marker, shape of the series.

    These are the points between two gaps, which no line shows, and some of the others: the markers
    of many models would hide each other.
    """
    known = np.pad(np.isfinite(series), 1)
    isolated = ~(known[:-2] | known[2:])
    return np.asarray(
        isolated | (np.arange(len(series)) % _MARKER_SPACING == index % _MARKER_SPACING)
    )


def _grid_of_rows(names: Labels) -> tuple[Figure, list[Axes]]:
    """Return a figure and its four axes, with room for the model names beside each."""
    return _grid(
        _WIDTH + 2 * max(0.0, names.width - _LABEL_WIDTH),
        max(_HEIGHT, 2 * (_MARGIN + _ROW * len(names.texts))),
    )


def _grid_with_legend(names: Labels) -> tuple[Figure, list[Axes], int]:
    """Return a figure, its four axes with room for a legend below, and the legend's columns."""
    column = names.width + _HANDLE
    columns = min(max(1, int(_WIDTH / column)), _LEGEND_COLUMNS)
    rows = -(-len(names.texts) // columns)
    figure, axes = _grid(
        max(_WIDTH, column + _MARGIN), _HEIGHT + _ROW * max(0, rows - _LEGEND_ROWS)
    )
    return figure, axes, columns


def _grid(width: float, height: float) -> tuple[Figure, list[Axes]]:
    # Not pyplot: it looks for a display, and keeps every figure until it is closed.
    from matplotlib.figure import Figure  # noqa: PLC0415 - see the module docstring

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    return figure, list(figure.subplots(2, 2).flat)


def _name_rows(
    axis: Axes, heights: NDArray[np.intp], llm_names: Sequence[str], names: Labels
) -> None:
    axis.set_yticks(
        heights,
        [names.texts[llm_name] for llm_name in llm_names],
        fontproperties=names.font,
        parse_math=False,
    )


def _plain_numbers(axis: Axis) -> None:
    """Label a log axis with 1, 2, 5, 10 and the like, not with powers."""
    from matplotlib.ticker import LogLocator, NullFormatter  # noqa: PLC0415 - see the docstring

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _format_axis(axis: Axes, metric: str) -> None:
    axis.set_title(f"{metric} [{UNITS[metric]}]", fontsize=9)
    axis.tick_params(which="both", labelsize=7)
    axis.grid(axis="x", color="0.9")
    axis.set_axisbelow(True)


def _svg_url(figure: Figure) -> str:
    drawn = BytesIO()
    figure.savefig(drawn, format="svg")
    return f"data:image/svg+xml;base64,{b64encode(drawn.getvalue()).decode()}"


def _markdown(figure: Figure) -> str:
    from PIL import Image  # noqa: PLC0415 - a dependency of matplotlib

    drawn, small = BytesIO(), BytesIO()
    figure.savefig(drawn, format="png")
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(_COLOURS, Image.Quantize.MAXCOVERAGE).save(
            small, "png", optimize=True
        )
    return f"![plot](data:image/png;base64,{b64encode(small.getvalue()).decode()})"
