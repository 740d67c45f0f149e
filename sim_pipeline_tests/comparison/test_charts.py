"""The tables and plots of the comparison and of a what-if."""

from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

from sim_pipeline.comparison.charts import (
    changes_plot,
    history_plot,
    ranges_plot,
    table,
)
from sim_pipeline.comparison.ranking import Comparison, History
from sim_pipeline.config import DEFAULT_MODELS
from sim_pipeline.metrics import METRICS
from sim_pipeline_tests.support.stored_windows import event


def compared(
    hours: int, metric: str, name: str, rank: int, trend: float | None = None
) -> Comparison:
    p50, p95 = 0.1 * rank, 0.3 * rank
    return Comparison(
        hours, metric, name, rank, 120, p50, p95, trend, 0.9 * p50, 1.1 * p50, 0.8 * p95, 1.5 * p95
    )


RANKING = [
    compared(hours, metric, name, rank, trend)
    for hours in (24, 168)
    for metric in METRICS
    for rank, (name, trend) in enumerate(
        zip(DEFAULT_MODELS, [0.125, None, -0.5, *[0.0] * 9], strict=True), 1
    )
]

HOUR = timedelta(hours=1)
START = datetime(2026, 11, 1, tzinfo=UTC)

ODD_NAMES = (
    "a$$b",
    "GPT-4o ($2.50/$10)",
    "_internal",
    r"$\frac{",
    r"x\$y",
    "通义千问-72B",
    "日本語モデル",
    "한국어-7B",
    "Русский-7B",
    "نموذج عربي",
)
MANY_NAMES = tuple(f"{number:02}-{'W' * 47}" for number in range(60))


def history(names: tuple[str, ...], buckets: int = 192) -> History:
    rng = np.random.default_rng(1)
    values = np.exp(rng.normal(0, 0.05, (len(names), 4, buckets)).cumsum(axis=-1))
    return History(names, [START + i * HOUR for i in range(buckets)], HOUR, values)


def percentiles(models: int) -> NDArray[np.float64]:
    return np.exp(np.random.default_rng(1).normal(0, 0.5, (models, 4, 2))).cumsum(axis=-1)


def ranking(names: tuple[str, ...]) -> list[Comparison]:
    return [
        compared(24, metric, name, rank) for metric in METRICS for rank, name in enumerate(names, 1)
    ]


PLOTS: dict[str, Callable[[tuple[str, ...]], str]] = {
    "ranges": lambda names: ranges_plot(ranking(names), 24),
    "changes": lambda names: changes_plot(
        names, percentiles(len(names)), 1.2 * percentiles(len(names))
    ),
    "history": lambda names: history_plot(history(names)),
}


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures drawn during the test."""
    drawn: list[Figure] = []
    save = Figure.savefig

    def savefig(figure: Figure, *args: Any, **kwargs: Any) -> None:
        drawn.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return drawn


def label_groups(figure: Figure) -> list[list[Text]]:
    """Return the model labels, grouped by the plot that they belong to."""
    for legend in figure.legends:
        if len(legend.get_texts()) != 2:
            return [legend.get_texts()]
    return [list(axis.get_yticklabels()) for axis in figure.axes]


def image(markdown: str, max_bytes: int = 40_000) -> Image.Image:
    head, _, data = markdown.removesuffix(")").partition("base64,")
    assert head == "![plot](data:image/png;"
    png = b64decode(data)
    assert len(png) < max_bytes, "each materialization stores it"
    return Image.open(BytesIO(png))


def test_table_has_a_row_per_model() -> None:
    lines = table(RANKING, 24, "TTFT").splitlines()
    assert len(lines) == 2 + len(DEFAULT_MODELS)
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2] == "| 1 | GPT-4o | 0.1 (0.09-0.11) | 0.3 (0.24-0.45) | +12.5% |"
    assert lines[3].endswith("| 0.6 (0.48-0.9) |  |")
    assert lines[4].endswith("| -50.0% |")


def test_default_models_fit_into_the_uis_preview() -> None:
    long = [
        replace(
            one,
            p50=0.3456,
            p50_low=0.3333,
            p50_high=0.3579,
            p95=1.234,
            p95_low=1.123,
            p95_high=2.345,
            trend=-0.123,
        )
        for one in RANKING
    ]
    for metric in METRICS:
        assert len(table(long, 168, metric)) < 1000


def test_numbers_have_three_digits_and_no_exponent() -> None:
    (one,) = ranking(("GPT-4o",))[:1]
    large = replace(one, p50=1234.5, p50_low=999.4, p50_high=999.6, p95=np.nan, p95_high=np.inf)
    assert table([large], 24, "TTFT").endswith("| 1234 (999-1000) | nan (0.24-inf) |  |")


def test_unknown_interval_is_not_shown() -> None:
    unknown = [
        replace(one, p50_low=None, p50_high=None, p95_low=None, p95_high=None) for one in RANKING
    ]
    assert table(unknown, 24, "TTFT").splitlines()[2] == "| 1 | GPT-4o | 0.1 | 0.3 | +12.5% |"
    image(ranges_plot(unknown, 24))


def test_intervals_are_drawn_through_their_percentiles(figures: list[Figure]) -> None:
    ranges_plot(RANKING, 24)
    (figure,) = figures
    for axis in figure.axes:
        lines = [
            sorted(tuple(segment[:, 0]) for segment in collection.get_segments())
            for collection in axis.collections
            if isinstance(collection, LineCollection)
        ]
        best = [of_kind[0] for of_kind in lines]
        assert best == [pytest.approx(ends) for ends in [(0.1, 0.3), (0.09, 0.11), (0.24, 0.45)]]
        assert {len(of_kind) for of_kind in lines} == {len(DEFAULT_MODELS)}


@pytest.mark.parametrize("buckets", [192, 1, 0])
def test_plots_are_small_images(buckets: int) -> None:
    for picture in (
        image(ranges_plot(RANKING, 24)),
        image(history_plot(history(DEFAULT_MODELS, buckets))),
    ):
        # About 9 by 6 inches; the longest name needs some more.
        assert 720 <= picture.width < 800
        assert 480 <= picture.height < 520
        assert len(picture.convert("RGB").getcolors() or []) > 5


def test_empty_ranking_can_be_shown() -> None:
    assert len(table([], 24, "TTFT").splitlines()) == 2
    assert image(ranges_plot([], 24)).size == (720, 480)


@pytest.mark.parametrize("models", [1, 9, 40])
def test_changes_plot_is_a_small_image(models: int) -> None:
    names = [f"model {number}" for number in range(models)]
    picture = image(changes_plot(names, percentiles(models), 1.2 * percentiles(models)), 100_000)
    assert picture.size[0] == 720
    assert len(picture.convert("RGB").getcolors() or []) > 5


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("plot", PLOTS)
def test_names_are_drawn_as_plain_text(
    plot: str, figures: list[Figure], caplog: pytest.LogCaptureFixture
) -> None:
    image(PLOTS[plot](ODD_NAMES))
    (figure,) = figures
    for texts in label_groups(figure):
        assert {text.get_text() for text in texts} == set(ODD_NAMES)
        assert not any(text.get_parse_math() for text in texts)
        assert all(text.get_visible() for text in texts)
    assert not caplog.records


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize("names", [ODD_NAMES, MANY_NAMES, tuple("通" * 48 + f"{i}" for i in "abc")])
def test_labels_do_not_overlap_and_fit(
    plot: str, names: tuple[str, ...], figures: list[Figure]
) -> None:
    image(PLOTS[plot](names), 400_000)
    (figure,) = figures
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    groups = label_groups(figure)
    boxes = [text.get_window_extent(renderer) for texts in groups for text in texts]
    assert len(boxes) == len(names) * len(groups)
    for box in boxes:
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
        assert sum(box.overlaps(other) for other in boxes) == 1
    for axis in figure.axes:
        assert axis.get_window_extent(renderer).width > 150


@pytest.mark.parametrize("plot", PLOTS)
def test_figure_grows_with_the_models(plot: str) -> None:
    sizes = [
        image(PLOTS[plot](names), 400_000).size
        for names in (DEFAULT_MODELS, MANY_NAMES[:30], MANY_NAMES)
    ]
    assert sizes[0][0] < 800
    assert sizes[0][1] < 520
    for (width, height), (next_width, next_height) in pairwise(sizes):
        assert next_width >= width
        assert next_height > height


def test_a_hundred_models_have_distinct_lines(figures: list[Figure]) -> None:
    history_plot(history(tuple(map(str, range(100))), 24))
    (figure,) = figures
    for axis in figure.axes:
        styles = {
            (line.get_color(), line.get_linestyle(), line.get_marker()) for line in axis.get_lines()
        }
        assert len(styles) == 100


def test_value_between_two_gaps_has_a_marker(figures: list[Figure]) -> None:
    series = history(tuple(map(str, range(20))), 24)
    series.p50[:, :, :9] = series.p50[:, :, 12:] = np.nan
    history_plot(series)
    (figure,) = figures
    for axis in figure.axes:
        for line in axis.get_lines():
            marked = line.get_markevery()
            assert marked is None or np.asarray(marked)[3]


def test_event_after_the_last_point_is_not_marked(figures: list[Figure]) -> None:
    series = history(("GPT-4o",), 24)
    inside, after = (
        replace(event(0, 1), started_at=START + hours * HOUR, ended_at=START + (hours + 1) * HOUR)
        for hours in (23.9, 24)
    )
    for events, lines in (([inside], 2), ([after], 1)):
        figures.clear()
        history_plot(series, events)
        assert [len(axis.get_lines()) for axis in figures[0].axes] == [lines] * 4


def test_names_in_the_table_are_escaped() -> None:
    lines = table(ranking(("__init__", "a$$b")), 24, "TTFT").splitlines()
    assert [line.split(" | ")[:2] for line in lines[2:]] == [
        ["| 1", "`__init__`"],
        ["| 2", "`a$$b`"],
    ]
