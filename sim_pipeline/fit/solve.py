"""Fits a profile: in simulation, it has the quantiles that were measured.

A tool that keeps a load for minutes is compared with requests at that steady load. Published
quantiles cover days: they are compared with hours in the 30 days up to their date. docs/models.md
describes what is fitted from what.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from typing import Any, Final

import numpy as np

from sim_pipeline.fit.least_squares import Array, Parameter, least_squares
from sim_pipeline.fit.loads import (
    METRICS,
    MOST_DECODING,
    Curve,
    Load,
    check,
    fitted_lengths,
    given_levels,
    load_of,
    measured_curve,
    middle,
)
from sim_pipeline.fit.measurement import LoadPoint, MeasurementError
from sim_pipeline.fit.quantiles import Quantile, at_steady_load, over_days
from sim_pipeline.simulator.calibration import calibrated
from sim_pipeline.simulator.demand import DAY
from sim_pipeline.simulator.lengths import MAX_TOKENS, TokenLengths
from sim_pipeline.simulator.profiles import (
    AZURE_OUTPUTS,
    AZURE_PROMPTS,
    FEWEST_OUTPUT_TOKENS,
    RHO_MAX,
    Profile,
    Thinking,
    Workload,
)

USUAL_RHO: Final = 0.45
"""The utilisation of an endpoint that was measured at one load."""
USUAL_CAP: Final = 20.0
"""The capacity of an endpoint without a measured rate [requests/s]."""
LEAST_BATCH: Final = 32
"""The least batch limit of an endpoint that was measured at one load."""

_ITERATIONS = 6
# Requests to simulate at one load, and at each of several.
_ROWS, _ROWS_EACH = 4096, 2048
_OF_TPS: Final = ("tps", "tps variance", "base", "cost", "exponent")
# Nearer to saturation, the wait depends on how the tool sends its requests.
_BUSIEST = 0.88
# Loads whose concurrency differs by a smaller factor are taken as one.
_SPAN = 1.5
# The median matters most; extreme quantiles are of few requests.
_WEIGHTS: Final = {0.5: 3.0, 0.05: 0.7, 0.95: 0.7, 0.99: 0.3}
_MEDIAN, _TAIL, _FAR_TAIL = 0.5, 0.9, 0.97
# Hidden thinking shows in a median TTFT [s], and in a ratio of its p95 that no queue gives.
_THINKING_TTFT, _THINKING_RATIO = 3.0, 2.2
# TTFT tells cap if the standard error of ln cap is smaller.
_CAP_ERROR = 0.3
# A load's ITL may differ from the curve by this share without a note.
_CURVE_ERROR = 0.15
_PREFILL_SHARES: Final = (Profile.prefill_share, 0.2, 0.1, 0.05, 0.02, 0.01)
# About the variance of ln TPS that the load makes.
_LOAD_VARIANCE = 0.05
_DIGITS = 6


@dataclass(frozen=True)
class Fit:
    """A fitted profile.

    Attributes:
        profile: the profile.
        loads: what was measured, the smallest load first.
        quantiles: measured and simulated.
        steady: whether they are simulated at steady loads, rather than over 30 days.
        fitted: the fields that were fitted, and from what.
        assumed: fields that the measurement does not determine, and why they are as they are.
        notes: what limits the use of the measurement.
    """

    profile: Profile
    loads: tuple[Load, ...]
    quantiles: tuple[Quantile, ...]
    steady: bool
    fitted: Mapping[str, str]
    assumed: Mapping[str, str]
    notes: tuple[str, ...]


def fit_profile(
    points: Sequence[LoadPoint],
    *,
    name: str,
    measured: date,
    batch_limit: int | None = None,
    seed: int = 42,
) -> Fit:
    """Return the profile that fits measurements best.

    Args:
        points: what was measured: one or more loads of one endpoint.
        name: the model's name.
        measured: the day of the measurement.
        batch_limit: requests that can decode at once, if known.
        seed: of the simulated requests.

    Raises:
        MeasurementError: the measurements do not suffice, or no profile agrees with them.
    """
    for point in points:
        check(point)
    try:
        return _Problem(points, name, measured, batch_limit, seed).solve()
    except (ValueError, ArithmeticError) as error:
        raise MeasurementError(f"{points[0].source}: no profile agrees with it: {error}") from error


class _Problem:
    """The measurements, what is decided from them, and the profile of given values."""

    def __init__(
        self,
        points: Sequence[LoadPoint],
        name: str,
        measured: date,
        batch_limit: int | None,
        seed: int,
    ) -> None:
        self._seed = seed
        self._batch_limit = batch_limit
        self._fitted: dict[str, str] = {"ttft_ref": "TTFT", "tps_ref": "TPS"}
        self._assumed: dict[str, str] = {}
        self._notes = [note for point in points for note in point.notes]
        if failed := sum(point.failed or 0 for point in points):
            self._notes.append(f"Failed requests, which are left out: {failed}.")
        workload = self._workload(points)
        self._steps = workload.output_lengths.mean - 1.0
        loads = [load_of(point, self._steps) for point in points]
        self._loads = sorted(loads, key=lambda load: load.decoding or 0.0)
        least, most = self._loads[0].decoding, self._loads[-1].decoding
        self._several = bool(least and most and most >= _SPAN * least)
        if len(points) > 1 and not self._several:
            self._notes.append("The loads are taken as one: the files show no differences of load.")
        # Published quantiles are of one load; so is a measurement of days.
        self._steady = len(points) > 1 or not (
            points[0].tool == "CSV of quantiles" or (points[0].duration_s or 0.0) >= DAY
        )
        self._ttft = float(np.median([middle(point.ttft) for point in points]))
        self._tps = float(np.median([middle(point.tps) for point in points]))
        self._thinks = self._has_hidden_thinking()
        self._base = Profile(
            name,
            ttft_ref=self._ttft,
            tps_ref=self._tps,
            cap=USUAL_CAP,
            rho=USUAL_RHO,
            batch_limit=MOST_DECODING if batch_limit is None else batch_limit,
            measured=measured,
            workload=workload,
        )
        self._exponent = Profile.itl_exponent
        self._cap: float | None = None
        self._rate = USUAL_RHO * USUAL_CAP
        self._compared = list(enumerate(self._loads))

    def solve(self) -> Fit:
        parameters = self._level_parameters()
        self._lower_prefill_share(parameters)
        self._leave_out_saturated(parameters)
        targets = [
            Quantile(index, metric, level, value)
            for index, load in self._compared
            for metric in METRICS
            for level, value in given_levels(load.point, metric).items()
        ]
        parameters += self._spread_parameters(targets, parameters)
        values = {one.name: one.start for one in parameters}
        of_tps = [one for one in parameters if one.name in _OF_TPS]
        values, _ = self._fit("tps", of_tps, targets, values)
        of_ttft = [one for one in parameters if one.name not in _OF_TPS]
        values, errors = self._fit("ttft", of_ttft, targets, values)
        if errors.get("cap", 0.0) > _CAP_ERROR:
            self._assumed["cap"] = (
                f"TTFT hardly rises with the rate: cap is known within a factor of "
                f"{min(math.exp(errors['cap']), 100.0):.0f}; measure at higher rates, or give "
                "--batch-limit"
            )
            del self._fitted["cap"]
        profile = _rounded(self._profile(values))
        if not self._several and profile.batch_limit == LEAST_BATCH != self._batch_limit:
            self._assumed["cap"] = "what batch_limit serves, because the measured load is small"
            self._assumed["batch_limit"] = "a small one"
        if profile.batch_limit == MOST_DECODING:
            full = calibrated(profile).full_batch
            profile = replace(
                profile, batch_limit=min(max(64, 1 << math.ceil(math.log2(full))), MOST_DECODING)
            )
            self._assumed["batch_limit"] = "no less than decode at once at cap"
        simulated = self._simulate(profile, targets).tolist()
        return Fit(
            profile,
            tuple(self._loads),
            tuple(
                replace(target, simulated=value)
                for target, value in zip(targets, simulated, strict=True)
            ),
            self._steady,
            self._fitted,
            self._assumed,
            tuple(dict.fromkeys(self._notes)),
        )

    def _fit(
        self,
        metric: str,
        parameters: Sequence[Parameter],
        targets: Sequence[Quantile],
        values: Mapping[str, float],
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Fit the parameters of a metric; return the new values, and the standard errors.

        TPS does not depend on the parameters of TTFT, but for what a full batch does.
        """
        chosen = [target for target in targets if target.metric == metric]
        weights = np.array([_WEIGHTS.get(target.level, 1.0) for target in chosen])
        goal = np.log([target.measured for target in chosen])

        def residuals(tried: dict[str, float]) -> Array | None:
            both = {**values, **tried}
            try:
                simulated = self._simulate(self._profile(both), chosen)
            except ValueError:
                return None
            differences: Array = weights * (np.log(simulated) - goal)
            return np.append(differences, self._saturated_differences(both))

        found, errors = least_squares(residuals, parameters, iterations=_ITERATIONS)
        return {**values, **found}, errors

    def _workload(self, points: Sequence[LoadPoint]) -> Workload:
        lengths: dict[str, TokenLengths] = {}
        for name, usual, minimum in (
            ("input", AZURE_PROMPTS, 1),
            ("output", AZURE_OUTPUTS, FEWEST_OUTPUT_TOKENS),
        ):
            tokens = [getattr(point, f"{name}_tokens") for point in points]
            found = [one for one in tokens if one is not None]
            lengths[name] = usual
            if found:
                lengths[name], source = fitted_lengths(found, usual, minimum)
                self._fitted[f"workload.{name}_lengths"] = source
            else:
                self._assumed[f"workload.{name}_lengths"] = "no numbers of tokens were measured"
        return Workload(input_lengths=lengths["input"], output_lengths=lengths["output"])

    def _has_hidden_thinking(self) -> bool:
        ttft = self._loads[0].point.ttft
        if ttft is None or self._several or self._ttft < _THINKING_TTFT:
            return False
        high = [value for level, value in ttft.quantiles.items() if _TAIL <= level < _FAR_TAIL]
        return max(high, default=0.0) >= _THINKING_RATIO * self._ttft

    # What is fitted

    def _level_parameters(self) -> list[Parameter]:
        """Return the parameters of the levels: of TTFT; of TPS, or of ITL by load; and of cap."""
        ttft = Parameter("ttft", math.log(self._ttft), -9.0, math.log(60.0), 0.02)
        if not self._several:
            rates = [load.rate for load in self._loads if load.rate]
            self._rate = float(np.mean(rates)) if rates else self._rate
            self._assumed |= {
                "rho": "rho times cap is the measured rate"
                if rates
                else "no rate was measured; rho times cap will be the rate",
                "cap": "a usual load is about 0.45 of cap"
                if self._batch_limit is None
                else "what batch_limit serves, if half of the time between tokens is due to load",
            }
            points = [load.point for load in self._loads]
            if not self._steady and all(_MEDIAN in given_levels(points[0], m) for m in METRICS):
                return []  # published medians are the references themselves
            return [ttft, Parameter("tps", math.log(self._tps), -5.0, math.log(1e4), 0.02)]
        curve, exponent_known, error = measured_curve(self._loads, self._steps)
        self._exponent = curve.exponent
        if exponent_known:
            self._fitted["itl_exponent"] = "time between tokens by number of requests that decode"
        else:
            self._assumed["itl_exponent"] = (
                "fitted with four loads or more, the highest four times the least"
            )
        if error > _CURVE_ERROR:
            self._notes.append(
                f"At one load, the time between tokens is {error:.0%} from a curve "
                "itl0 + kappa c^g: the simulator cannot follow all loads."
            )
        self._fitted["rho"] = "the load at which half of the time between tokens is due to load"
        most = self._loads[-1].decoding or 1.0
        least_cost = math.log(0.02 * curve.base / most**curve.exponent)
        cost = max(math.log(curve.cost), least_cost)
        parameters = [
            ttft,
            Parameter("base", math.log(curve.base), -16.0, 4.0, 0.03),
            Parameter("cost", cost, least_cost, 4.0, 0.05),
            *self._cap_parameter(),
        ]
        if exponent_known:
            parameters.append(Parameter("exponent", curve.exponent, 0.1, 1.0, 0.02, width=2.0))
        return parameters

    def _cap_parameter(self) -> list[Parameter]:
        """Decide what tells cap at several loads; return it as a parameter if that is TTFT."""
        last, before = self._loads[-1], self._loads[-2]
        highest = max(load.rate or 0.0 for load in self._loads)
        limits = [load.point.concurrency_limit for load in self._loads]
        of_batch = "time between tokens in a full batch"
        self._fitted["batch_limit"] = "requests that decode at cap"
        if self._batch_limit is not None:
            self._fitted |= {"cap": of_batch, "batch_limit": "the argument --batch-limit"}
        elif (last.rate or 0.0) < 1.05 * (before.rate or 0.0) and (
            (last.decoding or 0.0) > 1.2 * (before.decoding or 0.0)
        ):
            self._cap = highest
            self._fitted["cap"] = "the rate that does not rise further with the load"
        elif all(
            limit and (load.point.concurrency or 0.0) > 0.8 * limit
            for load, limit in zip(self._loads, limits, strict=True)
        ):
            self._batch_limit = max(2, round(max(limit or 0.0 for limit in limits)))
            self._fitted["cap"] = of_batch
            del self._fitted["batch_limit"]
            self._assumed["batch_limit"] = "the highest concurrency of the measurement"
        else:
            lowest = math.log(highest / _BUSIEST)
            self._fitted["cap"] = "the rise of TTFT with the rate: the wait for prefill"
            # It stays at a usual load where TTFT does not tell.
            usual = math.log(highest / USUAL_RHO)
            return [Parameter("cap", usual, lowest, lowest + 3.0, 0.04, width=2.0)]
        return []

    def _lower_prefill_share(self, parameters: Sequence[Parameter]) -> None:
        """Lower the share if prefill takes longer than TTFT."""
        for share in _PREFILL_SHARES:
            self._base = replace(self._base, prefill_share=share)
            try:
                calibrated(self._profile({one.name: one.start for one in parameters}))
            except ValueError:
                self._assumed["prefill_share"] = "with more, prefill takes longer than TTFT"
                if share == _PREFILL_SHARES[-1]:
                    raise
            else:
                return

    def _leave_out_saturated(self, parameters: Sequence[Parameter]) -> None:
        cap = self._profile({one.name: one.start for one in parameters}).cap
        below = [(i, load) for i, load in self._compared if (load.rate or 0.0) <= _BUSIEST * cap]
        if self._several and len(below) < len(self._loads):
            self._notes.append(
                f"{len(self._loads) - len(below)} of {len(self._loads)} loads are saturated: only "
                "their time between tokens is used."
            )
            self._compared = below or self._compared[:1]

    def _saturated_differences(self, values: Mapping[str, float]) -> list[float]:
        """Return the differences of the log ITL at the loads that are not simulated, weighted."""
        compared = {index for index, _ in self._compared}
        return [
            _WEIGHTS[_MEDIAN] * math.log(self._curve(values).itl(load.decoding) / load.itl)
            for index, load in enumerate(self._loads)
            if index not in compared and load.decoding
        ]

    def _spread_parameters(
        self, targets: Sequence[Quantile], levels: Sequence[Parameter]
    ) -> list[Parameter]:
        """Return the parameters of the spread and of the tail for which there are quantiles."""
        tps, ttft = (
            {target.level for target in targets if target.metric == metric} - {_MEDIAN, 0.0}
            for metric in ("tps", "ttft")
        )
        parameters = []
        if tps:
            self._fitted["itl_jitter"] = "spread of TPS"
            low = 0.0 if self._several else -0.95 * _LOAD_VARIANCE
            parameters.append(
                Parameter("tps variance", Profile.itl_jitter**2, low, 4.0, 0.006, 0.1)
            )
        if self._thinks:
            self._fitted["thinking"] = "spread of TTFT, which is too wide for a queue"
            parameters += [
                Parameter("thinking", 0.7, 0.3, 0.95, 0.03, width=0.5),
                Parameter("thinking sd", 0.8, 0.05, 3.0, 0.05),
            ]
            return parameters
        if any(level <= _TAIL for level in ttft):
            self._fitted["ttft_jitter"] = "spread of TTFT"
            parameters.append(
                Parameter("ttft variance", Profile.ttft_jitter**2, 0.0, 4.0, 0.01, 0.1)
            )
        if any(_TAIL <= level < _FAR_TAIL for level in ttft):
            self._fitted["slow_share"] = "upper tail of TTFT"
            parameters.append(Parameter("slow share", Profile.slow_share, 0.0, 0.5, 0.012, 0.1))
        if any(level > _FAR_TAIL for level in ttft):
            self._fitted["slow_median"] = "upper tail of TTFT"
            usual = math.log(Profile.slow_median)
            parameters.append(Parameter("slow median", usual, 0.0, math.log(100.0), 0.1))
        if ttft and not any(one.name == "cap" for one in levels):
            self._assumed.pop("prefill_share", None)
            self._fitted["prefill_share"] = (
                "the rise of TTFT with the rate"
                if self._several
                else "spread of TTFT, where it is less than the usual prefill's"
            )
            share = math.log(self._base.prefill_share)
            # One load does not tell prefill from jitter; it tells if prefill takes less.
            low, high = math.log(0.01), math.log(0.99) if self._several else share
            parameters.append(Parameter("prefill", share, low, high, 0.1, 0.5))
        return parameters

    # The profile of given values, and its simulation

    def _profile(self, values: Mapping[str, float]) -> Profile:
        """Return the profile of some values.

        A negative variance of TPS means no jitter, and less of what else makes TPS differ: the
        variation of the load, and the effect of the concurrency.

        Raises:
            ValueError: a field is out of range.
        """
        tps_variance = values.get("tps variance", Profile.itl_jitter**2)
        ttft_variance = values.get("ttft variance", Profile.ttft_jitter**2)
        prefill = math.exp(values["prefill"]) if "prefill" in values else self._base.prefill_share
        profile = replace(
            self._base,
            ttft_ref=math.exp(values["ttft"]) if "ttft" in values else self._ttft,
            tps_ref=math.exp(values["tps"]) if "tps" in values else self._tps,
            itl_jitter=math.sqrt(max(tps_variance, 0.0)),
            ttft_jitter=math.sqrt(ttft_variance),
            prefill_share=prefill,
            slow_share=values.get("slow share", Profile.slow_share),
            slow_median=math.exp(values.get("slow median", math.log(Profile.slow_median))),
        )
        left = min(1.0, 1.0 + tps_variance / _LOAD_VARIANCE)
        if left < 1.0 and not self._steady:
            calm = {
                name: getattr(profile.workload, name) * left
                for name in ("drift_sd", "burst_sd", "fast_burst_sd", "heavy_share")
            }
            profile = replace(
                profile,
                workload=replace(profile.workload, **calm),
                capacity_sd=profile.capacity_sd * left,
            )
        if self._thinks:
            tokens = max(values.get("thinking", 0.7) * self._ttft * self._tps, 2.0)
            longest = min(MAX_TOKENS, 1 << math.ceil(math.log2(40.0 * tokens)))
            sd = values.get("thinking sd", 0.8)
            lengths = TokenLengths(math.log(tokens), sd, minimum=1, maximum=longest)
            profile = replace(profile, thinking=Thinking(lengths))
        if self._several:
            return self._at_several_loads(profile, values)
        return self._at_one_load(profile, left)

    def _at_one_load(self, profile: Profile, left: float) -> Profile:
        """Return ``profile`` with a capacity for the measured rate.

        Half of the ITL depends on the concurrency, or the share ``left`` of this half.
        """
        itl = math.exp(0.5 * profile.itl_jitter**2) / profile.tps_ref
        decoding = self._rate * self._steps * itl
        cost = 0.5 * left * itl / decoding**self._exponent
        curve = Curve((1.0 - 0.5 * left) * itl, cost, self._exponent, self._steps)
        usual = math.ceil(curve.decoding(self._rate / USUAL_RHO))
        if self._batch_limit is None and usual >= LEAST_BATCH and left == 1.0:
            return replace(profile, cap=self._rate / USUAL_RHO)
        batch = self._batch_limit or max(LEAST_BATCH, usual)
        return self._with_curve(profile, curve, own=decoding, cap=curve.rate(batch), batch=batch)

    def _at_several_loads(self, profile: Profile, values: Mapping[str, float]) -> Profile:
        """Return ``profile`` with the numbers for which its ITL is a curve through all loads.

        At its own load, half of the ITL depends on the concurrency. If this is beyond what was
        measured, it is less than half, and the batch limit, which then binds, says how much.
        """
        curve = self._curve(values)
        cap = math.exp(values["cap"]) if "cap" in values else self._cap
        if cap is None:
            batch = self._batch_limit or MOST_DECODING
            cap = curve.rate(batch)
        else:
            batch = max(2, math.ceil(curve.decoding(cap)))
        half = (curve.base / curve.cost) ** (1.0 / curve.exponent)
        own = min(half, self._loads[-1].decoding or half, curve.decoding(0.75 * cap))
        if own < half:
            cap = curve.rate(batch)  # exactly what the batch serves
        return self._with_curve(profile, curve, own=own, cap=cap, batch=batch)

    def _curve(self, values: Mapping[str, float]) -> Curve:
        exponent = values.get("exponent", self._exponent)
        return Curve(math.exp(values["base"]), math.exp(values["cost"]), exponent, self._steps)

    def _with_curve(
        self, profile: Profile, curve: Curve, *, own: float, cap: float, batch: int
    ) -> Profile:
        """Return ``profile`` with the numbers for which its calibrated ITL is the curve's.

        Args:
            profile: the other fields.
            curve: the ITL.
            own: requests that decode at the profile's own load.
            cap: requests/s at which it saturates.
            batch: the batch limit.
        """
        usual = replace(
            profile,
            tps_ref=math.exp(0.5 * profile.itl_jitter**2) / curve.itl(own),
            cap=cap,
            batch_limit=batch,
            itl_exponent=curve.exponent,
        )
        return replace(usual, rho=curve.rate(own) / cap / self._typical_share())

    def _typical_share(self) -> float:
        """Return the median utilisation of the workload, relative to `Profile.rho`.

        The calibration has the reference ITL at the median utilisation.
        """
        profile = replace(self._base, ttft_ref=60.0, batch_limit=MOST_DECODING)
        times = calibrated(profile)
        itl = math.exp(0.5 * profile.itl_jitter**2) / profile.tps_ref
        decoding = ((itl - times.itl_base) / times.step_cost) ** (1.0 / times.exponent)
        return float(decoding / (times.decode_load * itl) / profile.rho)

    def _simulate(self, profile: Profile, targets: Sequence[Quantile]) -> Array:
        """Return the value of each target, shape (len(targets),)."""
        if not self._steady:
            result = over_days(profile, self._seed)
            return np.array([target.of(result[target.metric]) for target in targets])
        values = {}
        rows = _ROWS_EACH if self._several else _ROWS
        for index, load in self._compared if self._several else self._compared[:1]:
            rate = load.rate if self._several and load.rate else self._rate
            rho = min(rate / profile.cap, RHO_MAX)
            values[index] = at_steady_load(profile, rho, rows=rows, seed=self._seed)
        first = next(iter(values.values()))
        return np.array([t.of(values.get(t.load, first)[t.metric]) for t in targets])


def _rounded(profile: Profile) -> Profile:
    """Return a profile with as many digits as its file has."""
    numbers: dict[str, Any] = {
        field.name: float(f"{value:.{_DIGITS}g}")
        for field in fields(profile)
        if isinstance(value := getattr(profile, field.name), float)
    }
    return replace(profile, **numbers)
