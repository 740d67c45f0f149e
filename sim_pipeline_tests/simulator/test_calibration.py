"""A profile's times per token give its published figures, or the profile is refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sim_pipeline.simulator.calibration import LEAST_BASE, calibrated, prefill_utilisation
from sim_pipeline.simulator.catalogue import MODELS, profile_for
from sim_pipeline_tests.simulator.laws import steady


@pytest.mark.parametrize("profile", MODELS.values(), ids=lambda profile: profile.name)
@pytest.mark.parametrize("exponent", [0.3, 0.65, 0.9])
def test_cap_is_what_a_full_batch_serves(profile: Any, exponent: float) -> None:
    times = calibrated(replace(profile, itl_exponent=exponent))
    assert times.full_batch <= profile.batch_limit
    itl = times.itl(np.array(times.full_batch))
    # Little's law at saturation: c = cap * E[steps] * ITL(c).
    assert times.full_batch == pytest.approx(profile.cap * profile.mean_steps * itl)
    # So the highest utilisation can be reached.
    assert times.concurrency(np.array(0.9)) < profile.batch_limit


@pytest.mark.parametrize("rho", [0.1, 0.4, 0.7])
def test_concurrency_solves_littles_law(rho: float) -> None:
    times = calibrated(MODELS["GPT-4o"])
    concurrency = times.concurrency(np.array(rho))
    assert concurrency == pytest.approx(rho * times.decode_load * times.itl(concurrency), rel=1e-4)


def test_itl_is_concave_in_concurrency() -> None:
    times = calibrated(MODELS["GPT-4o"])
    slopes = np.diff(times.itl(np.arange(1.0, 129.0)))
    assert (slopes > 0.0).all()
    assert (np.diff(slopes) < 0.0).all()


def test_small_batch_limit_flattens_the_itl() -> None:
    # A batch that small serves cap only if its ITL hardly grows.
    usual = calibrated(MODELS["GPT-4o"])
    small = calibrated(replace(MODELS["GPT-4o"], batch_limit=70))
    assert usual.full_batch > small.full_batch == pytest.approx(70.0)
    assert small.itl_base > usual.itl_base
    assert small.step_cost < usual.step_cost
    assert usual.itl_base * 81 == pytest.approx(LEAST_BASE, rel=0.02)


def test_linear_itl_without_load_limit() -> None:
    # With g = 1 and a batch without limit, half of the ITL at rho = 0.4 is the base.
    times = calibrated(steady(MODELS["GPT-4o"], 0.4, itl_exponent=1.0, itl_jitter=0.0))
    assert times.itl(times.concurrency(np.array(0.4))) * 81 == pytest.approx(1.0, rel=1e-3)


def test_date_and_source_of_figures_do_not_matter() -> None:
    profile = MODELS["GPT-4o"]
    other = replace(profile, source="elsewhere", creator="someone")
    assert calibrated(other) == calibrated(profile)


def test_derived_profiles_can_be_solved() -> None:
    for number in range(500):
        times = calibrated(profile_for(f"model {number}"))
        assert times.ttft_base > 0.0
        assert times.itl_base > 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"batch_limit": 50},
            r"batch_limit is 50, but must be at least 5\d: so many requests decode at once when",
        ),
        (
            {"ttft_ref": 0.01},
            r"ttft_ref is 0.01, but must be more than 0.0\d+ s, which prefill and queue take",
        ),
    ],
)
def test_figures_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibrated(replace(MODELS["GPT-4o"], **changes))


def test_smallest_allowed_batch_limit_is_accepted() -> None:
    with pytest.raises(ValueError, match="must be at least") as refused:
        calibrated(replace(MODELS["GPT-4o"], batch_limit=1))
    least = int(str(refused.value).split("at least ")[1].split(":")[0])
    calibrated(replace(MODELS["GPT-4o"], batch_limit=least))
    with pytest.raises(ValueError, match="must be at least"):
        calibrated(replace(MODELS["GPT-4o"], batch_limit=least - 1))


def test_prefill_utilisation_reaches_one_with_rho() -> None:
    profile = MODELS["GPT-4o"]
    ends = prefill_utilisation(profile, np.array([0.0, 1.0]))
    assert ends == pytest.approx([0.0, 1.0])
