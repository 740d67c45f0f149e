"""The comparison as people see it."""

from base64 import b64decode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from sim_pipeline.assets.comparison_report import (
    changes_plot,
    history_plot,
    ranges_plot,
    table,
)
from sim_pipeline.config import DEFAULT_MODELS
from sim_pipeline.metrics import METRICS
from sim_pipeline.store.comparison import Comparison, History

RANKING = [
    Comparison(hours, metric, name, rank, 120, 0.1 * rank, 0.3 * rank, trend)
    for hours in (24, 168)
    for metric in METRICS
    for rank, (name, trend) in enumerate(
        zip(DEFAULT_MODELS, [0.125, None, -0.5, *[0.0] * 6], strict=True), 1
    )
]


def image(markdown: str) -> Image.Image:
    head, _, data = markdown.removesuffix(")").partition("base64,")
    assert head == "![plot](data:image/png;"
    png = b64decode(data)
    assert len(png) < 40_000, "it is kept with each materialization"
    return Image.open(BytesIO(png))


def test_the_table_has_a_line_a_model_of_its_period_and_metric() -> None:
    lines = table(RANKING, 24, "TTFT").splitlines()
    assert len(lines) == 2 + 9
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2] == "| 1 | GPT-4o | 0.1 | 0.3 | +12.5% |"
    assert lines[3].endswith("| 0.6 |  |")
    assert lines[4].endswith("| -50.0% |")


def test_a_table_of_the_models_there_are_is_shown_without_being_asked_for() -> None:
    long = [replace(one, p50=-0.0012345, p95=0.0012345, trend=-0.999) for one in RANKING]
    for metric in METRICS:
        assert len(table(long, 168, metric)) < 1000


@pytest.mark.parametrize("buckets", [192, 1, 0])
def test_the_plots_are_small_pictures(buckets: int) -> None:
    rng = np.random.default_rng(1)
    values = np.exp(rng.normal(0, 0.05, (9, 4, buckets)).cumsum(axis=-1))
    start = datetime(2026, 11, 1, tzinfo=UTC)
    hour = timedelta(hours=1)
    series = History(
        DEFAULT_MODELS, [start + index * hour for index in range(buckets)], hour, values, values
    )
    for picture in (image(ranges_plot(RANKING, 24)), image(history_plot(series))):
        assert picture.size == (720, 480)
        assert len(picture.convert("RGB").getcolors() or []) > 5


def test_a_ranking_of_nothing_can_be_shown() -> None:
    assert len(table([], 24, "TTFT").splitlines()) == 2
    assert image(ranges_plot([], 24)).size == (720, 480)


@pytest.mark.parametrize("models", [1, 9, 40])
def test_the_changes_of_some_models_are_a_small_picture(models: int) -> None:
    names = [f"model {number}" for number in range(models)]
    now = np.exp(np.random.default_rng(1).normal(0, 0.5, (models, 4, 2))).cumsum(axis=-1)
    picture = image(changes_plot(names, now, 1.2 * now))
    assert picture.size[0] == 720
    assert len(picture.convert("RGB").getcolors() or []) > 5
