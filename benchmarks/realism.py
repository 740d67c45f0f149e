"""Compare how simulated series move with how public series of real endpoints move.

    python -m benchmarks.realism [--seeds 42 43 44] [--models GPT-4o ...] [--database]

It prints a Markdown table with one row per figure, and the figures of single models. The estimators
are functions of arrays, and the same ones apply to a public series: a probe every three hours, of
which the median of the last 72 hours is published. docs/realism.md explains the figures.

By default it simulates half a year for each seed and needs no server. With `--database` it reads
the stored rows of the configured results database. They give the figures of TPS, TTFT and RPS.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.estimators import (
    BLOCK_WEEKS,
    DAY,
    HOUR,
    QUANTILES,
    RATE_SPACING,
    SPANS,
    Array,
    change_correlations,
    failure_figures,
    fano_factors,
    hour_of_day_share,
    itl_growth,
    lasting_shifts,
    load_season,
    mean_week,
    probe_ratios,
    published_ratio,
    rate_variability,
    require,
    tail_ratio,
    weekend_effect,
)
from sim_pipeline.config import DEFAULT_MODELS, read_settings
from sim_pipeline.connections import results_database
from sim_pipeline.markdown import literal, table
from sim_pipeline.simulator.calibration import calibrated
from sim_pipeline.simulator.catalogue import profile_for
from sim_pipeline.simulator.profiles import Profile
from sim_pipeline.simulator.profiles_file import read_profiles
from sim_pipeline.simulator.simulation import simulate
from sim_pipeline.store.connection import Postgres

COUNTED_RATE: Final = 5.5
"""Mean rate of the counted requests [1/s]: that of the Azure conversation trace of 2023."""
COUNTED_HOURS: Final = 16
LARGE_SHIFT: Final = 1.2
MONDAY: Final = 1_767_571_200
"""2026-01-05T00:00:00Z: the start of the simulated half-year [s since the Unix epoch]."""
WEEKS: Final = 26


@dataclass(frozen=True)
class Figure:
    """A figure of the table.

    Attributes:
        key: name of the figure's value.
        name: the figure, for people.
        real: its value on real endpoints.
        source: source of that value.
        low: smallest value that meets the aim, or None.
        high: largest value that meets the aim, or None.
    """

    key: str
    name: str
    real: str
    source: str
    low: float | None = None
    high: float | None = None

    @property
    def aim(self) -> str:
        """The allowed values."""
        if self.low is None:
            return "" if self.high is None else f"< {self.high:g}"
        return f"> {self.low:g}" if self.high is None else f"{self.low:g} to {self.high:g}"

    def met(self, value: float) -> bool:
        """Return whether a value meets the aim; NaN does not."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


_SERIES = "public probe series, half a year"
_FIRST_PARTY = f"{_SERIES}, closed first-party models"
_AZURE_2023 = "Azure LLM inference trace 2023, conversation"
_AZURE_2024 = "Azure LLM inference trace 2024, conversation"
_SERVEGEN = "ServeGen, m-large"
_ARTIFICIAL_ANALYSIS = "Artificial Analysis"

FIGURES: Final = (
    Figure(
        "weekend", "weekend effect on log TPS", "0.07 (0.03 to 0.16)", _FIRST_PARTY, 0.04, 0.12
    ),
    Figure(
        "hour", "share of log TPS that the hour of day explains", "about 0", _SERIES, None, 0.08
    ),
    Figure("tps_p05", "TPS p05 over p50 in 72 h", "0.72", _SERIES, 0.66, 0.78),
    Figure("tps_p25", "TPS p25 over p50 in 72 h", "0.88", _SERIES),
    Figure("tps_p75", "TPS p75 over p50 in 72 h", "1.17", _SERIES),
    Figure("tps_p95", "TPS p95 over p50 in 72 h", "1.47", _SERIES, 1.35, 1.55),
    Figure("ttft_p05", "TTFT p05 over p50 in 72 h", "0.75", _SERIES, 0.65, 0.79),
    Figure("ttft_p25", "TTFT p25 over p50 in 72 h", "0.88", _SERIES, 0.81, 0.92),
    Figure("ttft_p75", "TTFT p75 over p50 in 72 h", "1.24", _SERIES, 1.14, 1.30),
    Figure("ttft_p95", "TTFT p95 over p50 in 72 h", "2.10", _SERIES, 1.84, 2.20),
    Figure("fano_1", "Fano factor of counts in 1 s", "1.4", _AZURE_2023, 1.3, 1.6),
    Figure("fano_10", "the same in 10 s", "3.9", _AZURE_2023, 3.0, 5.0),
    Figure("fano_60", "the same in 60 s", "still growing", _AZURE_2023, 9.0, 25.0),
    Figure("rate_sd", "ten-minute rate, log-sd", "0.28", _SERVEGEN, 0.2, 0.35),
    Figure("step_sd", "steps of the ten-minute rate, log-sd", "0.17", _SERVEGEN, 0.1, 0.2),
    Figure("peak_to_trough", "peak to trough of a weekday's RPS", "about 2", _AZURE_2024, 1.7, 2.3),
    Figure("weekend_factor", "weekend over weekday RPS", "0.57", _AZURE_2024, 0.52, 0.62),
    Figure("shift", "lasting shift of TPS in ten weeks, log", "0.08", _SERIES, 0.06, 0.12),
    Figure("large_shifts", "share of shifts by more than 20 %", "many models", _SERIES),
    Figure(
        "different_creators", "correlation of 3-day changes of TPS, creators differ", "low",
        _SERIES, None, 0.3,
    ),
    Figure(
        "same_creator", "the same, models of one creator", "about twice that", _SERIES, 0.3, 0.5
    ),
    Figure(
        "failures", "share of failures outside incidents [%]", "0.1 to 0.3; BurstGPT 1.8",
        "good months; BurstGPT", 0.2, 0.5,
    ),
    Figure("in_spells", "failures in the worst 5 % of hours [%]", "in spells", "BurstGPT", 50.0),
    Figure(
        "tps_lowest", "TPS over the published median, lowest model", "1", _ARTIFICIAL_ANALYSIS,
        0.95, 1.05,
    ),
    Figure("tps_highest", "the same, highest model", "1", _ARTIFICIAL_ANALYSIS, 0.95, 1.05),
    Figure(
        "ttft_lowest", "TTFT over the published median, lowest model", "1", _ARTIFICIAL_ANALYSIS,
        0.95, 1.05,
    ),
    Figure("ttft_highest", "the same, highest model", "1", _ARTIFICIAL_ANALYSIS, 0.95, 1.05),
    Figure("tail_lowest", "TTFT p99 over p50, lowest model", "2", "one host", 2.0),
    Figure("tail_highest", "the same, highest model", "10", "one host", None, 10.0),
    Figure(
        "itl_bend", "ITL's slope at 32 to 128 requests over that at 1 to 32", "0.45",
        "GLM-4.7 on Gaudi 3, 1024/1024", 0.4, 0.65,
    ),
)  # fmt: skip
"""The figures in order of the table. Where the source gives no number, the aim is an estimate."""


@dataclass(frozen=True)
class Series:
    """Contiguous windows of a model.

    Attributes:
        profile: the model's endpoint.
        start: start of the first window [s since the Unix epoch].
        interval: length of a window [s].
        tps: shape (n_windows, points).
        ttft: shape (n_windows, points).
        rps: shape (n_windows, points).
    """

    profile: Profile
    start: int
    interval: int
    tps: Array
    ttft: Array
    rps: Array


@dataclass(frozen=True)
class Results:
    """The figures of one seed, or of a database.

    Attributes:
        values: value by key of `FIGURES`.
        missing: reason by key for each value that could not be computed.
        models: published TPS and TTFT met and tail of TTFT, by model.
    """

    values: dict[str, float]
    missing: dict[str, str]
    models: dict[str, tuple[float, float, float]]

    def add(self, keys: Sequence[str], compute: Callable[[], npt.ArrayLike]) -> None:
        """Compute the values of ``keys``, or note why that is impossible."""
        try:
            values = np.atleast_1d(compute()).tolist()
        except ValueError as error:
            self.missing.update(dict.fromkeys(keys, str(error)))
        else:
            for key, value in zip(keys, values, strict=True):
                if np.isnan(value):
                    self.missing[key] = "undefined for these models"
                else:
                    self.values[key] = value


def from_series(series: Sequence[Series], months: Sequence[Series]) -> Results:
    """Compute the figures that need TPS, TTFT and RPS only.

    Args:
        series: one per model, at least one.
        months: the same models at the time of their published medians, four weeks or more.
    """
    results = Results({}, {}, {})

    def over_models(estimate: Callable[[Series], npt.ArrayLike]) -> npt.ArrayLike:
        medians: Array = np.median([estimate(one) for one in series], axis=0)
        return medians

    thoughtful = {
        one.profile.name
        for one in months
        if one.profile.thinking is not None and not one.profile.thinking.visible
    }

    def of_models() -> npt.ArrayLike:
        for one in months:
            results.models[one.profile.name] = (
                published_ratio(one.tps, one.profile.tps_ref, one.interval),
                published_ratio(one.ttft, one.profile.ttft_ref, one.interval),
                tail_ratio(one.ttft, one.interval),
            )
        each = np.array(list(results.models.values()))
        # Hidden thinking has a tail of its own: no host adds it.
        each[[one.profile.name in thoughtful for one in months], 2] = np.nan
        return np.column_stack((np.nanmin(each, axis=0), np.nanmax(each, axis=0))).ravel()

    def shifts() -> npt.ArrayLike:
        found = np.concatenate([lasting_shifts(one.tps, one.interval) for one in series])
        return [float(np.median(found)), float(np.mean(found > np.log(LARGE_SHIFT)))]

    results.add(
        ["weekend"],
        lambda: over_models(lambda one: weekend_effect(one.tps, one.start, one.interval)),
    )
    results.add(
        ["hour"],
        lambda: over_models(lambda one: hour_of_day_share(one.tps, one.interval)),
    )
    for metric in ("tps", "ttft"):
        results.add(
            [f"{metric}_p{100 * quantile:02.0f}" for quantile in QUANTILES],
            lambda metric=metric: over_models(  # type: ignore[misc]
                lambda one: probe_ratios(getattr(one, metric), one.interval)
            ),
        )
    results.add(
        ["peak_to_trough", "weekend_factor"],
        lambda: over_models(lambda one: load_season(one.rps, one.start, one.interval)),
    )
    results.add(["shift", "large_shifts"], shifts)
    results.add(["different_creators", "same_creator"], lambda: _correlations(series))
    results.add(
        ["tps_lowest", "tps_highest", "ttft_lowest", "ttft_highest", "tail_lowest", "tail_highest"],
        of_models,
    )
    return results


def _correlations(series: Sequence[Series]) -> tuple[float, float]:
    """Apply `change_correlations` to the windows that all series have."""
    intervals = {one.interval for one in series}
    if len(intervals) > 1:
        raise ValueError(f"the models have windows of different lengths: {sorted(intervals)} s")
    interval = intervals.pop()
    start = max(one.start for one in series)
    stop = min(one.start + one.tps.shape[0] * interval for one in series)
    shared = {
        one.profile.name: one.tps[(start - one.start) // interval :][
            : max(0, (stop - start) // interval)
        ]
        for one in series
    }
    creators = {one.profile.name: one.profile.creator for one in series}
    return change_correlations(shared, creators, interval)


def from_simulation(profiles: Sequence[Profile], seed: int) -> Results:
    """Simulate half a year of each model and compute all figures.

    Args:
        profiles: the endpoints, at least one.
        seed: the user's seed.
    """
    series = [_simulated(profile, seed, MONDAY, WEEKS) for profile in profiles]
    months = [
        _simulated(profile, seed, _four_weeks_up_to(profile.measured), BLOCK_WEEKS)
        for profile in profiles
    ]
    results = from_series(series, months)
    results.add(
        [f"fano_{span}" for span in SPANS],
        lambda: fano_factors(np.concatenate([second_counts(one, seed) for one in series])),
    )
    results.add(
        ["rate_sd", "step_sd"],
        lambda: np.median(
            [rate_variability(ten_minute_rates(one, seed), MONDAY) for one in profiles], axis=0
        ),
    )
    results.add(
        ["failures", "in_spells"],
        lambda: 100.0 * np.median([_failures(one, seed) for one in profiles], axis=0),
    )
    _add_itl_bend(results, profiles)
    return results


def _simulated(profile: Profile, seed: int, start: int, weeks: int) -> Series:
    hours = start // HOUR + np.arange(weeks * 168)
    result = simulate(profile, hours, interval=HOUR, points=5, seed=seed)
    return Series(profile, start, HOUR, result.tps, result.ttft, result.rps)


def _four_weeks_up_to(day: date) -> int:
    """Return the start of the four weeks of which a day is the last [s since the epoch]."""
    last = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return int(last.timestamp()) - (BLOCK_WEEKS * 7 - 1) * DAY


def _add_itl_bend(results: Results, profiles: Sequence[Profile]) -> None:
    results.add(
        ["itl_bend"],
        lambda: statistics.median(itl_growth(calibrated(one).itl)[1] for one in profiles),
    )


def second_counts(series: Series, seed: int) -> Array:
    """Simulate the requests of each second in `COUNTED_HOURS` hours, shape (hours, 3600).

    The profile's cap is changed so that its mean rate is `COUNTED_RATE`. The hours are spread over
    the series, at those hours of the week whose mean load differs least from the week's mean.

    Args:
        series: an hourly series of the profile, from `MONDAY` on.
        seed: the user's seed.
    """
    profile = replace(series.profile, cap=COUNTED_RATE / series.profile.rho)
    week = mean_week(series.rps, series.start, series.interval).ravel()
    near = np.argsort(np.abs(week / week.mean() - 1.0))[:COUNTED_HOURS]
    weeks = np.arange(COUNTED_HOURS) * WEEKS // COUNTED_HOURS
    minutes = (MONDAY // HOUR + weeks * 168 + near)[:, np.newaxis] * 60 + np.arange(60)
    rates = simulate(profile, minutes.ravel(), interval=60, points=60, seed=seed).rps
    return rates.reshape(COUNTED_HOURS, HOUR)


def ten_minute_rates(profile: Profile, seed: int) -> Array:
    """Simulate the rate of each ten minutes of the half-year [1/s], shape (n,)."""
    windows = (MONDAY + np.arange(0, WEEKS * 7 * DAY, RATE_SPACING)) // RATE_SPACING
    return simulate(profile, windows, interval=RATE_SPACING, points=1, seed=seed).rps[:, 0]


def _failures(profile: Profile, seed: int) -> tuple[float, float]:
    """Return the failure figures of the half-year as it would be without incidents."""
    calm = replace(profile, incidents=(), random_incidents=False)
    hours = MONDAY // HOUR + np.arange(WEEKS * 168)
    result = simulate(calm, hours, interval=HOUR, points=5, seed=seed)
    failed = result.failed.sum(axis=1).astype(float)
    return failure_figures(failed, result.completed.astype(float))


_STORED = """
    SELECT "timestamp", "values" FROM simulation_results
    WHERE llm_name = $1 AND metric = $2 ORDER BY "timestamp"
"""


def from_database(series: Sequence[Series]) -> Results:
    """Compute the figures that stored windows allow.

    Args:
        series: one per model, at least one.
    """
    results = from_series(series, series)
    results.add(
        ["rate_sd", "step_sd"],
        lambda: np.median([_stored_variability(one) for one in series], axis=0),
    )
    results.missing.update(
        dict.fromkeys(
            [f"fano_{span}" for span in SPANS],
            f"counts in 1 s at {COUNTED_RATE} requests/s are simulated with a changed cap",
        )
    )
    results.missing.update(
        dict.fromkeys(
            ["failures", "in_spells"], "only the results are read, not the counts of requests"
        )
    )
    _add_itl_bend(results, [one.profile for one in series])
    return results


def stored_models(database: Postgres) -> list[str]:
    """Return the names of the models that have stored windows, in alphabetical order."""
    with database.bulk_connection() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT DISTINCT llm_name FROM simulation_results ORDER BY llm_name")
        return [str(row[0]) for row in cursor.fetchall()]


def stored_series(database: Postgres, profile: Profile) -> Series:
    """Return the longest span of a model's contiguous windows with equally many values.

    Raises:
        ValueError: the database has no two such windows.
    """
    starts, values = {}, {}
    with database.bulk_connection() as connection, connection.cursor() as cursor:
        for metric in ("TPS", "TTFT", "RPS"):
            cursor.execute(_STORED, (profile.name, metric))
            rows = cursor.fetch_arrow_table().combine_chunks()
            stamps = rows["timestamp"].to_numpy().astype("datetime64[s]").astype(np.int64)
            lists = rows["values"].combine_chunks()
            require(stamps.size, 2, f"windows of {profile.name}")
            span = longest_span(stamps, np.diff(lists.offsets.to_numpy()))
            starts[metric] = stamps[span]
            require(starts[metric].size, 2, f"contiguous windows of {profile.name}")
            values[metric] = lists[span].flatten().to_numpy().reshape(starts[metric].size, -1)
    # A window's rows are written in one transaction, so the metrics have the same windows.
    stamps = starts["TPS"]
    return Series(
        profile,
        int(stamps[0]),
        int(stamps[1] - stamps[0]),
        values["TPS"],
        values["TTFT"],
        values["RPS"],
    )


def longest_span(starts: npt.NDArray[np.int64], points: npt.NDArray[np.integer]) -> slice:
    """Return the longest span of windows at equal distances with equally many values.

    Args:
        starts: starts of the windows in order of time [s], shape (n,), n >= 2.
        points: number of values of each window, shape (n,).
    """
    # The distance of each window to the next, or 0 where the number of values changes.
    links = np.where(np.diff(points) == 0, np.diff(starts), 0)
    edges = np.concatenate(([0], np.flatnonzero(np.diff(links)) + 1, [links.size]))
    lengths = np.diff(edges) * (links[edges[:-1]] > 0)
    best = int(lengths.argmax())
    return slice(int(edges[best]), int(edges[best] + lengths[best]) + 1)


def _stored_variability(series: Series) -> tuple[float, float]:
    points = series.rps.shape[1]
    slices = RATE_SPACING * points // series.interval
    if slices * series.interval != RATE_SPACING * points or not slices:
        raise ValueError(
            f"slices of {series.interval / points:g} s do not divide the {RATE_SPACING} s of the"
            " ten-minute rate"
        )
    # Begin at a full ten minutes.
    skip = -series.start % RATE_SPACING * points // series.interval
    rates = series.rps.ravel()[skip:]
    rates = rates[: rates.size // slices * slices].reshape(-1, slices).mean(axis=1)
    return rate_variability(rates, series.start + -series.start % RATE_SPACING)


def markdown(results: Sequence[Results]) -> str:
    """Return the table of figures and the table of models.

    Args:
        results: one per seed, at least one.
    """
    rows = []
    for figure in FIGURES:
        values = [one.values[figure.key] for one in results if figure.key in one.values]
        ours = _spread_of(values) or results[0].missing.get(figure.key, "")
        met = ""
        if values and figure.aim:
            met = "yes" if figure.met(statistics.median(values)) else "no"
        rows.append((figure.name, figure.real, figure.source, ours, figure.aim, met))
    heads = ("figure", "real endpoints", "source", "ours", "to become", "met")
    lines = [table(heads, "llllll", rows), ""]
    names = [name for name in results[0].models if all(name in one.models for one in results)]
    by_model = [
        (
            literal(name),
            *(_spread_of([one.models[name][column] for one in results]) for column in range(3)),
        )
        for name in names
    ]
    model_heads = ("model", "TPS over published", "TTFT over published", "TTFT p99 over p50")
    lines += [table(model_heads, "lrrr", by_model)] if by_model else []
    return "\n".join(lines)


def _spread_of(values: Sequence[float]) -> str:
    """Return the median, and in brackets the smallest and the largest value."""
    if not values:
        return ""
    middle = f"{statistics.median(values):.3g}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.3g} to {max(values):.3g})"


def main() -> None:
    """Compute the figures and print them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.realism", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44], metavar="SEED")
    parser.add_argument(
        "--models", nargs="+", metavar="MODEL", help="by default those of the service"
    )
    parser.add_argument("--database", action="store_true", help="read stored rows instead")
    arguments = parser.parse_args()
    if arguments.database:
        settings = read_settings()
        database = results_database(settings)
        names = arguments.models or stored_models(database)
        if not names:
            parser.error(f"no windows are stored in {database}")
        profiles = read_profiles(settings.model_profiles_file, names).values()
        try:
            series = [stored_series(database, profile) for profile in profiles]
        except ValueError as error:
            parser.error(f"{database}: {error}")
        for one in series:
            days = one.tps.shape[0] * one.interval / DAY
            print(
                f"{one.profile.name}: {days:.1f} days of windows of {one.interval} s with"
                f" {one.tps.shape[1]} values"
            )
        results = [from_database(series)]
    else:
        endpoints = [profile_for(name) for name in arguments.models or DEFAULT_MODELS]
        results = [from_simulation(endpoints, seed) for seed in arguments.seeds]
    print(markdown(results))


if __name__ == "__main__":
    main()
