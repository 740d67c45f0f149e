"""The series move as those of real endpoints do; simpler ones do not.

The estimators and the aims are those of `benchmarks.realism`; docs/realism.md explains them.
"""

import statistics
from dataclasses import replace

import pytest

from benchmarks import realism
from benchmarks.realism import FIGURES, Figure, Results, from_simulation
from sim_pipeline.config import DEFAULT_MODELS
from sim_pipeline.simulator.catalogue import MODELS
from sim_pipeline.simulator.profiles import Profile
from sim_pipeline_tests.simulator.test_laws import naive

SEEDS = (42, 43, 44)
PROFILES = [MODELS[name] for name in DEFAULT_MODELS]
AIMED = [figure for figure in FIGURES if figure.aim]

# What moved differently in the series of a constant number of machines without bursts and shifts.
RIGID = {
    "weekend", "hour", "tps_p05", "fano_10", "fano_60", "rate_sd", "step_sd", "shift",
    "different_creators", "same_creator", "failures", "in_spells", "itl_bend",
}  # fmt: skip
# What the series of independent uniform draws get wrong.
UNIFORM = {
    "weekend", "tps_p05", "ttft_p05", "ttft_p25", "ttft_p95", "fano_1", "fano_10", "fano_60",
    "step_sd", "peak_to_trough", "weekend_factor", "shift", "different_creators", "same_creator",
    "failures", "in_spells", "ttft_lowest", "ttft_highest", "tail_lowest",
}  # fmt: skip


def rigid(profile: Profile) -> Profile:
    """Return the endpoint with all its machines on at any time, and evenly spread failures."""
    workload = replace(profile.workload, burst_sd=0.0, fast_burst_sd=0.0, heavy_share=0.0)
    return replace(
        profile,
        workload=workload,
        elasticity=1.0,
        capacity_sd=0.0,
        shifts_per_year=0.0,
        itl_exponent=1.0,
        itl_jitter=0.08,
        batch_limit=100_000,
        failure_rate=0.015,
        spells_per_month=0.0,
    )


@pytest.fixture(scope="module")
def ours() -> list[Results]:
    return [from_simulation(PROFILES, seed) for seed in SEEDS]


def as_parameter(figure: Figure) -> str:
    return figure.key


@pytest.mark.parametrize("figure", AIMED, ids=as_parameter)
def test_figure_is_that_of_real_endpoints(ours: list[Results], figure: Figure) -> None:
    values = [results.values[figure.key] for results in ours]
    # The aims are several times as wide as the spread between seeds, or the median is clear of it.
    assert figure.met(statistics.median(values)), values


def unmet(results: Results) -> set[str]:
    return {figure.key for figure in AIMED if not figure.met(results.values[figure.key])}


def test_constant_machines_and_even_demand_do_not_move_so() -> None:
    assert unmet(from_simulation([rigid(one) for one in PROFILES], SEEDS[0])) >= RIGID


def test_uniform_draws_do_not_move_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(realism, "simulate", naive)
    assert unmet(from_simulation(PROFILES, SEEDS[0])) >= UNIFORM
