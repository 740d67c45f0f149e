"""SLO attainment, goodput and failures of the models over a day and a week, like NumPy's."""

from datetime import datetime, timedelta

import numpy as np
import pytest

from sim_pipeline.comparison.attainment import Attainment, attainment_table, read_attainment
from sim_pipeline.comparison.ranking import PERIODS
from sim_pipeline.comparison.sampling import sampling
from sim_pipeline.config import DEFAULT_MODELS
from sim_pipeline.simulator.catalogue import MODELS as CATALOGUE
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.slos import ModelSlo, save_slos
from sim_pipeline_tests.support.stored_windows import (
    HOUR,
    START,
    batch_of,
    execute,
    store,
    window_starts,
)

MODELS = ("GPT-4o", "Llama-3.1-8B", "日本's 100% {x}")
SLOS = (
    ModelSlo(MODELS[0], "chat", ttft=0.4, itl=0.02, e2e=None),
    ModelSlo(MODELS[1], "chat", ttft=None, itl=None, e2e=15.0),
    ModelSlo(MODELS[2], "code", ttft=None, itl=0.015, e2e=20.0),
)
DAYS = 8
FIRST = START - DAYS * 24 * HOUR
LATEST = START - HOUR


def read(
    postgres: Postgres,
    *models: str,
    latest: datetime = LATEST,
    interval: timedelta = HOUR,
    points: int = 5,
) -> list[Attainment]:
    with postgres.engine.connect() as connection:
        return read_attainment(connection, models or MODELS, latest, sampling(interval, points))


def test_attainment_matches_numpy(postgres: Postgres) -> None:
    batch = batch_of(MODELS, window_starts(DAYS * 24, start=FIRST), seed=3)
    store(postgres, batch)
    save_slos(postgres, SLOS)

    found = {(one.hours, one.llm_name): one for one in read(postgres)}

    assert len(found) == len(PERIODS) * len(MODELS)
    starts = np.array([start.timestamp() for start in batch.window_starts])
    for slo in SLOS:
        for hours in PERIODS:
            chosen = starts >= (START - timedelta(hours=hours)).timestamp()
            chosen &= np.array(batch.llm_names) == slo.llm_name
            ttft, tps, e2e, rps = np.moveaxis(batch.values[chosen], 1, 0)
            good = np.ones(ttft.shape, dtype=bool)
            for limit, value in ((slo.ttft, ttft), (slo.itl, 1 / tps), (slo.e2e, e2e)):
                good &= value <= (np.inf if limit is None else limit)
            assert 0.1 < good.mean() < 0.9
            counts = batch.counts[chosen].sum(axis=0)
            one = found[hours, slo.llm_name]
            assert (one.workload, one.ttft, one.itl, one.e2e) == (
                slo.workload,
                slo.ttft,
                slo.itl,
                slo.e2e,
            )
            assert [one.attainment, one.goodput, one.failed] == pytest.approx(
                [
                    good.mean(),
                    (good.mean(axis=1) * rps.mean(axis=1)).mean(),
                    counts[1:].sum() / counts.sum(),
                ],
                rel=1e-9,
            )


def test_best_model_comes_first(postgres: Postgres) -> None:
    store(postgres, batch_of(MODELS, window_starts(24, start=START - 24 * HOUR), seed=3))
    save_slos(postgres, SLOS)
    found = read(postgres)
    assert [one.hours for one in found] == [24] * 3 + [168] * 3
    shares = [one.attainment for one in found[:3]]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[-1]


def test_models_without_limits_or_windows_are_left_out(postgres: Postgres) -> None:
    store(postgres, batch_of(MODELS[:2], window_starts(2, start=START - 48 * HOUR)))
    save_slos(postgres, SLOS[1:])
    # The two windows are older than a day.
    assert [(one.hours, one.llm_name) for one in read(postgres)] == [(168, MODELS[1])]
    assert read(postgres, MODELS[0]) == []


def test_windows_without_counts_have_no_share_of_failures(postgres: Postgres) -> None:
    store(postgres, batch_of(MODELS[:1], window_starts(3, start=START - 3 * HOUR)))
    save_slos(postgres, SLOS)
    execute(postgres, "DELETE FROM request_counts")
    day, _ = read(postgres)
    assert day.failed is None
    assert attainment_table([day], 24).splitlines()[-1].endswith("|  |")


def test_one_window_of_each_slot_is_read(postgres: Postgres) -> None:
    """Windows of 10 s: the first one of each minute counts, also for failures."""
    step = timedelta(seconds=10)
    starts = window_starts(24, start=START - 24 * step, step=step)
    batch = batch_of(MODELS[:1], starts, seed=3, points=1)
    store(postgres, batch)
    save_slos(postgres, SLOS)
    day, _ = read(postgres, latest=START - step, interval=step, points=1)
    chosen = batch.values[::6]
    good = (chosen[:, 0] <= 0.4) & (1 / chosen[:, 1] <= 0.02)
    assert day.attainment == good.mean()
    counts = batch.counts[::6].sum(axis=0)
    assert day.failed == pytest.approx(counts[1:].sum() / counts.sum())


def test_table_shows_limits_and_shares() -> None:
    found = [
        Attainment(24, "a|b", "chat", 2.0, 0.04, None, 0.98765, 12.3456, 0.00123),
        Attainment(168, "GPT-4o", "code", None, None, 60.0, 0.5, 1.0, 0.0),
    ]
    assert attainment_table(found, 24).splitlines() == [
        "| model | class | TTFT/ITL/e2e [s] | attainment | goodput [requests/s] | failed |",
        "| --- | --- | --- | ---: | ---: | ---: |",
        r"| `a\|b` | chat | 2/0.04/- | 98.77% | 12.35 | 0.12% |",
    ]
    assert "| GPT-4o | code | -/-/60 | 50.00% | 1 | 0.00% |" in attainment_table(found, 168)


def test_default_models_fit_into_the_uis_preview() -> None:
    """The UI shows text of less than 1,000 characters without a click."""
    found = [
        Attainment(
            24, name, CATALOGUE[name].workload.name, 30.0, 0.04, 60.0, 0.98765, 12.3456, 0.00123
        )
        for name in DEFAULT_MODELS
    ]
    text = attainment_table(found, 24)
    assert len(text.splitlines()) == 2 + len(DEFAULT_MODELS)
    assert len(text) < 1000
