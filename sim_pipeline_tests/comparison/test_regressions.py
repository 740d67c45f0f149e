"""Regressions: incidents are found, ordinary months raise few alarms."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from sim_pipeline.comparison.ranking import History
from sim_pipeline.comparison.regressions import DISTANCES, SMALLEST_FACTOR, find_regressions
from sim_pipeline.config import DEFAULT_MODELS
from sim_pipeline.metrics import METRICS
from sim_pipeline.simulator.catalogue import profile_for
from sim_pipeline.simulator.profiles import Incident, Workload
from sim_pipeline.simulator.simulation import simulate

HOUR = 3600
START = datetime(2026, 1, 1, tzinfo=UTC)
FIRST = int(START.timestamp()) // HOUR
EIGHT_DAYS = 192
TTFT, TPS, E2E, RPS = range(4)
QUIET = {
    "capacity_sd": 0.0,
    "shifts_per_year": 0.0,
    "workload": Workload(drift_sd=0.0, burst_sd=0.0, fast_burst_sd=0.0, heavy_share=0.0),
}


def months(
    names: tuple[str, ...],
    hours: int,
    seed: int,
    incident: Incident | None = None,
    *,
    points: int = 5,
    changes: dict[str, object] | None = None,
) -> History:
    medians = []
    for name in names:
        profile = replace(
            profile_for(name),
            random_incidents=False,
            incidents=(incident,) if incident and name == names[0] else (),
            **(changes or {}),  # type: ignore[arg-type]
        )
        simulation = simulate(
            profile, np.arange(FIRST, FIRST + hours), interval=HOUR, points=points, seed=seed
        )
        values = [simulation.ttft, simulation.tps, simulation.e2e_latency, simulation.rps]
        medians.append(np.median(values, axis=2))
    hour = timedelta(hours=1)
    return History(names, [START + index * hour for index in range(hours)], hour, np.stack(medians))


def until(history: History, hour: int) -> History:
    """Return the history that a comparison at that hour reads."""
    shown = slice(max(0, hour - EIGHT_DAYS), hour)
    return replace(history, starts=history.starts[shown], p50=history.p50[..., shown])


def constant(medians: tuple[float, float, float, float] = (0.5, 50.0, 5.0, 10.0)) -> History:
    """Return eight days of one model that never changes."""
    history = months(("GPT-4o",), EIGHT_DAYS, 42)
    history.p50[:] = np.array(medians)[:, np.newaxis]
    return history


@pytest.mark.parametrize("seed", [42, 43, 44])
def test_incident_is_reported(seed: int) -> None:
    begin = 15 * 24 + 12
    incident = Incident((FIRST + begin) * HOUR, (FIRST + begin + 12) * HOUR, 0.3)
    history = months(("GPT-4o", "Llama-3.1-8B"), begin + 12, seed, incident)
    assert find_regressions(until(history, begin)) == []
    hours = range(begin + 1, begin + 13)
    found = [one for hour in hours for one in find_regressions(until(history, hour))]
    assert {one.llm_name for one in found} == {"GPT-4o"}
    assert "TPS" in {one.metric for one in found}


def test_description_names_stretch_and_limit() -> None:
    history = constant()
    history.p50[0, TPS, -3:] = 20
    (one,) = find_regressions(history)
    assert str(one) == (
        "GPT-4o TPS 2026-01-08T21:00Z to 2026-01-09T00:00Z: p50 20 is below the limit 45.5"
    )


def test_quiet_month_has_no_regressions() -> None:
    names = ("GPT-4o", "Claude-Opus-4.7", "Llama-3.1-70B")
    history = months(names, 38 * 24, 42, points=60, changes=QUIET)
    hours = range(EIGHT_DAYS, 38 * 24 + 1)
    assert [hour for hour in hours if find_regressions(until(history, hour))] == []


def test_ordinary_month_has_few_regressions() -> None:
    history = months(DEFAULT_MODELS, 38 * 24, 42)
    begun, before = 0, set[str]()
    for hour in range(EIGHT_DAYS, 38 * 24 + 1):
        reported = {one.llm_name for one in find_regressions(until(history, hour))}
        begun += len(reported - before)
        before = reported
    # About one per model and month; their number varies as a Poisson number does.
    assert begun <= 1.5 * len(DEFAULT_MODELS)


def worsen(history: History, metric: str, hours: slice, log_factor: float) -> None:
    """Make hours worse by a factor."""
    sign = -1 if metric == "TPS" else 1
    history.p50[0, METRICS.index(metric), hours] *= np.exp(sign * log_factor)


@pytest.mark.parametrize("metric", DISTANCES)
@pytest.mark.parametrize(("share", "count"), [(0.97, 0), (1.03, 1)])
def test_limit_is_a_number_of_standard_deviations(metric: str, share: float, count: int) -> None:
    history = constant()
    # Every second hour, and so every second level, is worse by this factor.
    worsen(history, metric, slice(0, -3, 2), 0.3)
    worsen(history, metric, slice(-3, None), 0.3 + share * DISTANCES[metric] * 0.3 / 1.128)
    assert [one.metric for one in find_regressions(history)] == [metric] * count


@pytest.mark.parametrize("metric", DISTANCES)
@pytest.mark.parametrize(("beyond", "count"), [(0.99, 0), (1.01, 1)])
def test_small_change_is_no_regression(metric: str, beyond: float, count: int) -> None:
    history = constant()
    worsen(history, metric, slice(-3, None), np.log(beyond * SMALLEST_FACTOR))
    found = find_regressions(history)
    assert [one.metric for one in found] == [metric] * count
    assert all((one.p50 > one.limit) == (metric != "TPS") for one in found)
    assert all((" is below " in str(one)) == (metric == "TPS") for one in found)


def test_better_values_are_no_regression() -> None:
    history = constant()
    history.p50[0, TPS, -3:] *= 9
    history.p50[0, [TTFT, E2E], -3:] /= 9
    assert find_regressions(history) == []


@pytest.mark.parametrize(("hours", "metrics"), [([-1], []), ([-3, -1], ["TTFT", "e2e_latency"])])
def test_two_of_three_hours_must_be_bad(hours: list[int], metrics: list[str]) -> None:
    history = constant()
    for hour in hours:
        history.p50[0, [TTFT, E2E], hour] *= 900
    assert [one.metric for one in find_regressions(history)] == metrics


@pytest.mark.parametrize(("load", "metrics"), [(10.0, ["TPS"]), (5.0, [])])
def test_lower_load_is_not_compared(load: float, metrics: list[str]) -> None:
    history = constant()
    # Two days of an incident: the endpoint is slow and completes half of the requests.
    history.p50[0, RPS, :48] = 5
    history.p50[0, TPS, :48] = 25
    history.p50[0, RPS, -3:] = load
    history.p50[0, TPS, -3:] = 25
    assert [one.metric for one in find_regressions(history)] == metrics


def test_sparse_history_has_no_regressions() -> None:
    gaps = constant()
    gaps.p50[0, TTFT, -3:] *= 100
    gaps.p50[0, :, 24 + 2 : -3] = np.nan
    assert [one.metric for one in find_regressions(gaps)] == ["TTFT"]
    gaps.p50[0, :, 24 + 1] = np.nan
    assert find_regressions(gaps) == []


def test_missing_hour_is_no_regression() -> None:
    history = constant()
    history.p50[0, TTFT, -3:] *= 100
    history.p50[0, TTFT, -2] = np.nan
    assert find_regressions(history) == []


@pytest.mark.parametrize("buckets", [0, 1, 2, 26])
def test_short_history_has_no_regressions(buckets: int) -> None:
    history = constant()
    history.p50[0, TTFT, buckets - 3 : buckets] *= 100
    assert find_regressions(until(history, buckets)) == []


def test_model_name_with_markup_is_escaped() -> None:
    history = replace(constant(), llm_names=("__init__",))
    history.p50[0, TPS, -3:] /= 5
    (found,) = find_regressions(history)
    assert str(found).startswith("`__init__` TPS ")
