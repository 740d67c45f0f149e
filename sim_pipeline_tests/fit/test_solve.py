"""The fit: known parameters are recovered, and simulated quantiles are the measured ones."""

from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pytest

from sim_pipeline.fit.least_squares import Parameter, least_squares
from sim_pipeline.fit.loads import MEAN, fitted_lengths
from sim_pipeline.fit.measurement import Distribution, LoadPoint, MeasurementError, complete
from sim_pipeline.fit.reading import read_measurements
from sim_pipeline.fit.solve import LEAST_BATCH, USUAL_RHO, Fit, fit_profile
from sim_pipeline.simulator.calibration import calibrated
from sim_pipeline.simulator.catalogue import MODELS
from sim_pipeline.simulator.lengths import TokenLengths
from sim_pipeline.simulator.profiles import AZURE_OUTPUTS, Profile
from sim_pipeline_tests.fit.samples import SAMPLES
from sim_pipeline_tests.fit.simulated_loads import measure

DAY = date(2026, 7, 10)
# GLM-4.7's time between tokens [ms] by concurrency, prompts and answers of 1,024 tokens.
GLM = {1: 53.7, 2: 54.9, 4: 59.9, 8: 59.9, 16: 80.9, 32: 101, 64: 124, 128: 167}


def fit(points: list[LoadPoint], **arguments: Any) -> Fit:
    return fit_profile(points, name="ours", measured=DAY, **arguments)


def published(ttft: dict[float, float], tps: dict[float, float]) -> LoadPoint:
    return complete(
        LoadPoint(
            source="quantiles.csv",
            tool="CSV of quantiles",
            ttft=Distribution(ttft),
            tps=Distribution(tps),
        )
    )


def closed_loop(concurrency: int, itl: float, ttft: float = 0.5) -> LoadPoint:
    latency = ttft + 1023 * itl
    return complete(
        LoadPoint(
            source=f"concurrency {concurrency}",
            tool="vLLM",
            completed=1000,
            rate=concurrency / latency,
            concurrency_limit=concurrency,
            ttft=Distribution({0.5: ttft}, ttft),
            itl=Distribution({0.5: itl}, itl),
            e2e=Distribution({}, latency),
            input_tokens=Distribution({0.5: 1024, 0.9: 1024}, 1024),
            output_tokens=Distribution({0.5: 1024, 0.9: 1024}, 1024),
        )
    )


def errors(found: Fit, *levels: float) -> list[float]:
    return [abs(one.error) for one in found.quantiles if one.level in levels]


# Several loads


@pytest.mark.parametrize("name", ["GPT-4o", "Llama-3.1-70B", "GPT-5.4-mini"])
def test_parameters_are_recovered_from_several_loads(name: str) -> None:
    true = MODELS[name]
    found = fit(measure(true, (0.15, 0.3, 0.45, 0.6, 0.8)))
    profile = found.profile
    assert profile.ttft_ref == pytest.approx(true.ttft_ref, rel=0.03)
    assert profile.tps_ref == pytest.approx(true.tps_ref, rel=0.03)
    assert profile.cap == pytest.approx(true.cap, rel=0.1)
    assert profile.itl_exponent == pytest.approx(true.itl_exponent, abs=0.05)
    assert profile.itl_jitter == pytest.approx(true.itl_jitter, abs=0.02)
    assert profile.ttft_jitter == pytest.approx(true.ttft_jitter, abs=0.04)
    decoding = np.linspace(1.0, calibrated(true).full_batch, 20)
    assert calibrated(profile).itl(decoding) == pytest.approx(
        calibrated(true).itl(decoding), rel=0.03
    )
    assert max(errors(found, 0.25, 0.5, 0.75)) < 0.05
    assert found.fitted["cap"].startswith("the rise of TTFT")


def test_reference_is_recovered_from_three_loads() -> None:
    true = replace(MODELS["GPT-4o"], tps_ref=60.0, cap=15.0)
    profile = fit(measure(true, (0.3, 0.5, 0.75))).profile
    assert profile.itl_exponent == Profile.itl_exponent
    assert profile.tps_ref == pytest.approx(60, rel=0.03)
    assert profile.cap == pytest.approx(15, rel=0.1)


def test_order_of_the_files_does_not_matter() -> None:
    points = measure(MODELS["GPT-4o"], (0.3, 0.5, 0.75))
    assert fit(points[::-1]).profile == fit(points).profile


def test_measured_curve_of_a_concurrency_sweep() -> None:
    points = [closed_loop(c, itl / 1e3) for c, itl in GLM.items()]
    found = fit(points)
    times = calibrated(found.profile)
    for concurrency, itl in GLM.items():
        assert 1e3 * times.itl(np.array(concurrency)) == pytest.approx(itl, rel=0.15)
    assert found.profile.batch_limit == 128
    # What the batch serves: 128 requests of 1,023 steps.
    assert found.profile.cap == pytest.approx(128 / (1023 * 0.167), rel=0.1)
    assert found.assumed["batch_limit"] == "the highest concurrency of the measurement"


def test_batch_limit_argument_sets_cap() -> None:
    points = [closed_loop(c, itl / 1e3) for c, itl in GLM.items()]
    found = fit(points, batch_limit=256)
    assert found.profile.batch_limit == 256
    itl = float(calibrated(found.profile).itl(np.array(256.0)))
    assert found.profile.cap == pytest.approx(256 / (1023 * itl), rel=0.01)
    assert found.fitted["batch_limit"] == "the argument --batch-limit"


def test_throughput_that_does_not_rise_is_cap() -> None:
    true = MODELS["GPT-4o"]
    points = measure(true, (0.3, 0.5, 0.8))
    last = points[-1]
    assert last.itl is not None
    slow = Distribution.of([1.5 * value for value in last.itl.samples])
    found = fit([*points, complete(replace(last, source="plateau", itl=slow, tps=None, e2e=None))])
    assert found.profile.cap == pytest.approx(0.8 * true.cap, rel=0.02)
    assert found.fitted["cap"] == "the rate that does not rise further with the load"
    assert any("saturated" in note for note in found.notes)


def test_equal_loads_are_taken_as_one() -> None:
    points = measure(MODELS["GPT-4o"], (0.4, 0.42))
    found = fit(points)
    assert "The loads are taken as one: the files show no differences of load." in found.notes
    assert found.profile.rho * found.profile.cap == pytest.approx(0.41 * 20, rel=0.01)
    assert max(errors(found, 0.5)) < 0.05


# One load


def test_quantiles_of_one_steady_load() -> None:
    true = replace(MODELS["GPT-4o"], itl_jitter=0.3, ttft_jitter=0.35, slow_share=0.12)
    found = fit(measure(true, (0.45,)))
    profile = found.profile
    assert found.steady
    assert max(errors(found, 0.05, 0.25, 0.5, 0.75, 0.95)) < 0.05
    assert profile.rho == USUAL_RHO
    assert profile.rho * profile.cap == pytest.approx(0.45 * true.cap)
    assert profile.itl_jitter == pytest.approx(0.3, abs=0.03)
    assert found.assumed["cap"] == "a usual load is about 0.45 of cap"


def test_one_request_at_a_time() -> None:
    generator = np.random.default_rng(1)
    ttft = 0.2 * np.exp(0.05 * generator.standard_normal(300))
    itl = 0.02 * np.exp(0.03 * generator.standard_normal(300))
    point = LoadPoint(
        source="one.csv",
        tool="CSV of requests",
        completed=300,
        rate=0.365,
        concurrency=1.0,
        ttft=Distribution.of(ttft.tolist()),
        itl=Distribution.of(itl.tolist()),
        input_tokens=Distribution.of([512.0] * 300),
        output_tokens=Distribution.of([128.0] * 300),
    )
    found = fit([complete(point)])
    assert max(errors(found, 0.05, 0.5, 0.95)) < 0.05
    assert found.profile.batch_limit == LEAST_BATCH
    assert found.profile.workload.output_lengths.mean == pytest.approx(128, rel=0.01)


def test_mean_only_is_met() -> None:
    point = complete(
        LoadPoint(
            source="summary.json",
            tool="LLMPerf summary",
            completed=50,
            rate=4.0,
            ttft=Distribution({}, 0.6),
            tps=Distribution({}, 50.0),
        )
    )
    found = fit([point])
    assert [(one.metric, one.level) for one in found.quantiles] == [("ttft", MEAN), ("tps", MEAN)]
    assert max(errors(found, MEAN)) < 0.01
    assert found.profile.itl_jitter == Profile.itl_jitter
    assert not {"itl_jitter", "ttft_jitter", "slow_share"} & found.fitted.keys()


# Published quantiles


def test_published_quantiles_are_met_over_days() -> None:
    found = fit(
        [
            published(
                {0.05: 0.5, 0.25: 0.58, 0.5: 0.66, 0.75: 0.82, 0.95: 1.39},
                {0.05: 118, 0.25: 144, 0.5: 164, 0.75: 192, 0.95: 241},
            )
        ]
    )
    assert not found.steady
    assert (found.profile.ttft_ref, found.profile.tps_ref) == (0.66, 164)
    assert max(errors(found, 0.5)) < 0.05
    assert max(errors(found, 0.05, 0.25, 0.75, 0.95)) < 0.12


def test_narrow_tps_leaves_less_variation_of_the_load() -> None:
    tps = {0.05: 95.0, 0.25: 98.0, 0.5: 100.0, 0.75: 102.0, 0.95: 105.0}
    found = fit([published({0.5: 0.5}, tps)])
    assert found.profile.itl_jitter == 0
    assert found.profile.capacity_sd < Profile.capacity_sd
    assert found.profile.workload.burst_sd < 0.22
    assert max(errors(found, 0.05, 0.5, 0.95)) < 0.05


def test_wide_and_slow_ttft_is_hidden_thinking() -> None:
    ttft = {0.05: 2.59, 0.25: 4.2, 0.5: 7.0, 0.75: 14.2, 0.95: 24.4}
    found = fit([published(ttft, {0.5: 73.0})])
    thinking = found.profile.thinking
    assert thinking is not None
    assert not thinking.visible
    assert 0.5 < thinking.tokens.log_sd < 1.5
    assert max(errors(found, 0.05, 0.5, 0.95)) < 0.15
    narrow = {level: 7.0 * (value / 7.0) ** 0.3 for level, value in ttft.items()}
    assert fit([published(narrow, {0.5: 73.0})]).profile.thinking is None


# What is not enough


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ttft": None}, "ours.json: ttft is missing: a fit needs the median or mean of the time"),
        ({"tps": None, "itl": None}, "ours.json: tps is missing: a fit needs the median or mean"),
        ({"ttft": Distribution({0.9: 1.0})}, "ours.json: ttft is missing"),
        ({"completed": 1}, "ours.json: completed requests are 1: a fit needs 2 or more"),
    ],
)
def test_unusable_measurement_is_refused(changes: dict[str, Any], message: str) -> None:
    point = LoadPoint(
        source="ours.json",
        tool="vLLM",
        completed=10,
        ttft=Distribution({0.5: 0.5}),
        tps=Distribution({0.5: 50}),
    )
    with pytest.raises(MeasurementError) as caught:
        fit([replace(point, **changes)])
    assert str(caught.value).startswith(message)


def test_contradicting_figures_are_refused() -> None:
    with pytest.raises(MeasurementError, match="no profile agrees with it: rho is "):
        fit([published({0.5: 0.5}, {0.5: 50.0})], batch_limit=1)
    with pytest.raises(MeasurementError, match="no profile agrees with it: ttft_ref is 90"):
        fit([published({0.5: 90.0}, {0.5: 50.0})])


@pytest.mark.parametrize(
    "path",
    sorted(path for path in SAMPLES.iterdir() if path.suffix in (".csv", ".json", ".jsonl")),
    ids=lambda path: path.name,
)
def test_each_sample_can_be_fitted(path: Any) -> None:
    profile = fit(read_measurements([path])).profile
    assert calibrated(profile).itl_base > 0


# The parts


def test_least_squares_finds_a_bounded_minimum() -> None:
    parameters = [
        Parameter("a", 0.0, -5.0, 5.0, 0.01),
        Parameter("b", 0.0, -5.0, 2.0, 0.01),
        Parameter("c", 0.7, 0.0, 1.0, 0.01),
    ]
    values, wide = least_squares(
        lambda v: np.array([v["a"] - 1.0, np.exp(v["b"]) - np.exp(3.0)]), parameters, iterations=30
    )
    assert values["a"] == pytest.approx(1, abs=0.01)
    assert values["b"] == pytest.approx(2, abs=0.01)
    # No value depends on it.
    assert values["c"] == 0.7
    assert wide["c"] > 10 * wide["a"]


def test_impossible_values_are_avoided() -> None:
    parameters = [Parameter("a", 0.0, -5.0, 5.0, 0.01)]
    values, _ = least_squares(
        lambda v: None if v["a"] > 1 else np.array([v["a"] - 3.0]), parameters, iterations=30
    )
    assert 0.5 < values["a"] <= 1
    with pytest.raises(ValueError, match="the first guess is impossible"):
        least_squares(lambda _: None, parameters, iterations=1)


def test_lengths_have_the_measured_mean_and_spread() -> None:
    true = TokenLengths(log_median=6.0, log_sd=0.5, minimum=2, maximum=5000)
    samples = true.from_normal(np.random.default_rng(1).standard_normal(4000)).tolist()
    distribution = Distribution.of(samples)
    assert distribution is not None
    quantiles = replace(distribution, samples=())
    for given, source in ((distribution, "requests"), (quantiles, "mean and quantiles")):
        lengths, found = fitted_lengths([given], AZURE_OUTPUTS, 2)
        assert found == source
        assert lengths.mean == pytest.approx(true.mean, rel=0.02)
        assert lengths.log_sd == pytest.approx(0.5, abs=0.03)
    lengths, found = fitted_lengths([Distribution({}, 300.0)], AZURE_OUTPUTS, 2)
    assert found == "mean; the spread is the default"
    assert lengths.log_sd == AZURE_OUTPUTS.log_sd
    assert lengths.mean == pytest.approx(300, rel=0.02)
    fixed, _ = fitted_lengths([Distribution({0.5: 128, 0.9: 128}, 128)], AZURE_OUTPUTS, 2)
    assert (fixed.log_sd, fixed.mean) == (0, 128)
