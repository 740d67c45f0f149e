"""The table of benchmarks/realism.py: simulated and stored series, aims, and reasons."""

import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from benchmarks.realism import (
    FIGURES,
    Figure,
    Results,
    from_database,
    from_simulation,
    longest_span,
    main,
    markdown,
    stored_models,
    stored_series,
)
from sim_pipeline.simulator.catalogue import MODELS
from sim_pipeline.store.connection import Postgres
from sim_pipeline_tests.support.stored_windows import START, batch_of, store, window_starts

MINUTES = timedelta(minutes=20)


@pytest.mark.parametrize(
    ("low", "high", "aim", "inside", "outside"),
    [
        (0.1, 0.2, "0.1 to 0.2", 0.2, 0.21),
        (None, 0.3, "< 0.3", -1, float("nan")),
        (50.0, None, "> 50", 51, 49),
    ],
)
def test_aim_is_shown_and_checked(
    low: float | None, high: float | None, aim: str, inside: float, outside: float
) -> None:
    figure = Figure("key", "name", "real", "source", low, high)
    assert figure.aim == aim
    assert figure.met(inside)
    assert not figure.met(outside)


def test_table_has_median_and_range_over_seeds() -> None:
    seeds = [
        Results({"weekend": value}, {"fano_1": "a reason"}, {"ours": (value, 1.0, 2.0)})
        for value in (0.08, 0.5, 0.1)
    ]
    lines = markdown(seeds).splitlines()
    rows = {line.split(" | ")[0]: line.split(" | ") for line in lines}
    assert rows["| weekend effect on log TPS"][3:] == ["0.1 (0.08 to 0.5)", "0.04 to 0.12", "yes |"]
    assert rows["| Fano factor of counts in 1 s"][3:] == ["a reason", "1.3 to 1.6", " |"]
    assert rows["| ours"][1:] == ["0.1 (0.08 to 0.5)", "1 (1 to 1)", "2 (2 to 2) |"]


def test_simulation_gives_every_figure() -> None:
    models = ("GPT-4o", "GPT-4o-mini", "Claude-3.5-Sonnet")
    results = from_simulation([MODELS[name] for name in models], 42)
    assert results.missing == {}
    assert set(results.values) == {figure.key for figure in FIGURES}
    assert set(results.models) == set(models)


def test_longest_span_has_no_gap_and_one_number_of_values() -> None:
    starts = np.array([0, 60, 120, 90_000, 90_060, 90_120, 90_180, 90_240, 90_250, 90_260])
    points = np.full(starts.size, 5)
    assert longest_span(starts, points) == slice(3, 8)
    points[3:6] = 2
    assert longest_span(starts, points) == slice(0, 3)
    assert longest_span(starts, np.arange(starts.size)) == slice(0, 1)


def test_stored_windows_are_read_without_the_gap(postgres: Postgres) -> None:
    early = batch_of(["GPT-4o"], window_starts(3, step=MINUTES), points=4)
    late = batch_of(
        ["GPT-4o"], window_starts(5, start=START + 9 * MINUTES, step=MINUTES), points=4, seed=1
    )
    store(postgres, early, late)
    assert stored_models(postgres) == ["GPT-4o"]
    series = stored_series(postgres, MODELS["GPT-4o"])
    assert series.start == (START + 9 * MINUTES).timestamp()
    assert series.interval == MINUTES.total_seconds()
    ttft, tps, _, rps = late.values.transpose(1, 0, 2)
    np.testing.assert_array_equal(series.ttft, ttft)
    np.testing.assert_array_equal(series.tps, tps)
    np.testing.assert_array_equal(series.rps, rps)


def test_figures_that_stored_windows_do_not_allow_have_a_reason(postgres: Postgres) -> None:
    store(postgres, batch_of(["GPT-4o"], window_starts(15 * 72, step=MINUTES), points=4))
    results = from_database([stored_series(postgres, MODELS["GPT-4o"])])
    assert set(results.values) | set(results.missing) == {figure.key for figure in FIGURES}
    assert {"weekend", "tps_p05", "rate_sd", "peak_to_trough"} <= set(results.values)
    assert results.missing["shift"] == "15 days are available, 70 are needed"
    assert "counts of requests" in results.missing["failures"]
    assert "cap" in results.missing["fano_1"]


@pytest.mark.parametrize(
    ("models", "message"),
    [([], "no windows are stored in"), (["--models", "GPT-4o"], "0 windows of GPT-4o")],
)
@pytest.mark.usefixtures("settings")
def test_empty_database_is_reported(
    models: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["realism", "--database", *models])
    with pytest.raises(SystemExit):
        main()
    assert message in capsys.readouterr().err


def test_documented_figures_are_those_of_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "realism.md").read_text(encoding="utf-8")
    rows = {
        (name, real, source, aim)
        for name, real, source, _, aim, _ in (
            line[2:-2].split(" | ")
            for line in page.splitlines()
            if line.startswith("| ") and line.count(" | ") == 5
        )
    }
    assert rows >= {(one.name, one.real, one.source, one.aim) for one in FIGURES}


def test_undefined_value_is_missing() -> None:
    results = Results({}, {}, {})
    results.add(["different_creators", "same_creator"], lambda: [0.2, float("nan")])
    assert results.values == {"different_creators": 0.2}
    assert results.missing == {"same_creator": "undefined for these models"}
