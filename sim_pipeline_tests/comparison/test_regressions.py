"""Regressions: incidents are found, ordinary months raise no alarm."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from sim_pipeline.comparison.ranking import History
from sim_pipeline.comparison.regressions import find_regressions
from sim_pipeline.config import DEFAULT_MODELS
from sim_pipeline.simulator.profiles import Incident, profile_for
from sim_pipeline.simulator.simulation import simulate

HOUR = 3600
START = datetime(2026, 1, 1, tzinfo=UTC)
FIRST = int(START.timestamp()) // HOUR
WEEK_AND_DAY = 192


def months(
    names: tuple[str, ...], hours: int, seed: int, incident: Incident | None = None
) -> History:
    percentiles = []
    for name in names:
        profile = replace(
            profile_for(name),
            random_incidents=False,
            incidents=(incident,) if incident and name == names[0] else (),
        )
        simulation = simulate(
            profile, np.arange(FIRST, FIRST + hours), interval=HOUR, points=5, seed=seed
        )
        values = np.stack([simulation.ttft, simulation.tps, simulation.e2e_latency, simulation.rps])
        percentiles.append(np.percentile(values, [50, 95], axis=2))
    p50, p95 = np.stack(percentiles, axis=1)
    hour = timedelta(hours=1)
    return History(names, [START + index * hour for index in range(hours)], hour, p50, p95)


def until(history: History, hour: int) -> History:
    """Return the history that a comparison at that hour reads."""
    shown = slice(max(0, hour - WEEK_AND_DAY), hour)
    return replace(
        history,
        starts=history.starts[shown],
        p50=history.p50[..., shown],
        p95=history.p95[..., shown],
    )


def test_incident_is_reported() -> None:
    begin = FIRST + 15 * 24 + 12
    incident = Incident(begin * HOUR, (begin + 4) * HOUR, 0.3)
    history = months(("GPT-4o", "Llama-3.1-8B"), 15 * 24 + 16, 42, incident)
    found = find_regressions(history and until(history, 15 * 24 + 16))
    assert {one.llm_name for one in found} == {"GPT-4o"}
    assert "e2e_latency" in {one.metric for one in found}
    one = next(one for one in found if one.metric == "e2e_latency")
    assert one.p95 > one.limit
    assert str(one).startswith("GPT-4o e2e_latency 2026-01-16T13:00Z to 2026-01-16T16:00Z: p95 ")
    assert " is above the limit " in str(one)
    assert find_regressions(until(history, 15 * 24 + 12)) == []


def test_lower_tps_is_below_its_limit() -> None:
    history = months(("GPT-4o",), WEEK_AND_DAY, 42)
    history.p95[0, 1, -3:] /= 5
    (found,) = find_regressions(history)
    assert (found.metric, found.p95 < found.limit) == ("TPS", True)
    assert " is below the limit " in str(found)


def test_better_p95_or_one_bad_hour_is_no_regression() -> None:
    history = months(("GPT-4o",), WEEK_AND_DAY, 42)
    history.p95[0, 1, -3:] *= 9
    history.p95[0, [0, 2], -3:] /= 9
    assert find_regressions(history) == []
    history.p95[0, [0, 2], -1] *= 900
    assert find_regressions(history) == []


def test_ordinary_month_has_no_regressions() -> None:
    history = months(DEFAULT_MODELS, 38 * 24, 42)
    hours = range(WEEK_AND_DAY, 38 * 24 + 1)
    assert [hour for hour in hours if find_regressions(until(history, hour))] == []


def test_sparse_history_has_no_regressions() -> None:
    begin = FIRST + 12
    incident = Incident(begin * HOUR, (begin + 4) * HOUR, 0.3)
    assert find_regressions(months(("GPT-4o",), 16, 42, incident)) == []
    gaps = months(("GPT-4o",), WEEK_AND_DAY, 42)
    gaps.p95[0, :, -3:] *= 100
    gaps.p95[0, :, :-20] = np.nan
    assert find_regressions(gaps) == []


@pytest.mark.parametrize("buckets", [0, 1, 2, 26])
def test_short_history_has_no_regressions(buckets: int) -> None:
    assert find_regressions(until(months(("GPT-4o",), 30, 42), buckets)) == []


def test_model_name_with_markup_is_escaped() -> None:
    history = replace(months(("GPT-4o",), WEEK_AND_DAY, 42), llm_names=("__init__",))
    history.p95[0, 1, -3:] /= 5
    (found,) = find_regressions(history)
    assert str(found).startswith("`__init__` TPS ")
