"""Measure the false alarms and the detections of the check `p50_regression`.

    python -m benchmarks.regressions [--seeds 101 102 ...] [--models GPT-4o ...] [--days 365]

It simulates hourly windows of 5 points, and runs the check after each hour on the eight days that a
comparison reads, as the schedule does. It needs no server, and takes one to two minutes for each
seed.

It prints Markdown tables with the median and the range over the seeds: alarms in the series as
simulated, and detections of incidents and lasting shifts that are planted one at a time.
docs/comparison.md explains the tables.
"""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
import numpy.typing as npt

from sim_pipeline.comparison.ranking import HISTORY, History
from sim_pipeline.comparison.regressions import DISTANCES, STRETCH, find_regressions
from sim_pipeline.config import DEFAULT_MODELS
from sim_pipeline.markdown import literal, table
from sim_pipeline.metrics import METRICS
from sim_pipeline.simulator.capacity import random_incidents, speed
from sim_pipeline.simulator.catalogue import profile_for
from sim_pipeline.simulator.profiles import Incident, Profile
from sim_pipeline.simulator.simulation import simulate

HOUR: Final = 3_600
POINTS: Final = 5
SEEDS: Final = (101, 102, 103, 104, 105, 106)
"""Other seeds than those for which the limits of the check were chosen, which are 42, 43 and 44."""
START: Final = datetime(2026, 1, 1, tzinfo=UTC)
FIRST: Final = int(START.timestamp()) // HOUR
READ: Final = HISTORY // timedelta(hours=1)
"""Hours that a comparison reads."""
MONTH: Final = 30 * 24
SLOT: Final = 18 * 24
"""Length of a slot [h]: each event is planted once per slot, at a random time."""
CAPACITY_FACTORS: Final = (0.3, 0.5, 0.7)
DURATIONS: Final = (1, 3, 12, 24)
"""Durations of the planted incidents [h]."""
SHIFTS: Final = (0.1, 0.2, 0.3)
"""Planted lasting losses of speed, relative to the speed before."""
WEEK: Final = 7 * 24
"""Hours for which a shift is news: it is looked for in these, and explains an alarm in these."""
FALL: Final = 0.05
"""A smaller loss of speed does not explain an alarm."""
SPEED_POWER: Final = {"TTFT": -1.0, "TPS": 1.0, "e2e_latency": -1.0, "RPS": 0.0}

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Alarms:
    """Numbers of alarms by what happened at the time.

    Attributes:
        incident: a random incident overlaps the reported stretches.
        shift: no incident, but the speed fell in the seven days before.
        false: neither.
    """

    incident: int
    shift: int
    false: int


@dataclass(frozen=True)
class Results:
    """The results of one seed.

    Attributes:
        alarms: numbers per month and model, by name of the row.
        models: false alarms per month by model.
        detections: delay of each planted event [h], NaN if it was not found, by name of the event.
    """

    alarms: dict[str, float]
    models: dict[str, float]
    detections: dict[str, Array]


def measure(profiles: Sequence[Profile], days: int, seed: int) -> Results:
    """Measure the check on simulated series.

    Args:
        profiles: the endpoints, at least one.
        days: days in which the check runs, at least 18.
        seed: the user's seed.
    """
    hours = FIRST + np.arange(READ + days * 24)
    series = np.stack([hourly_medians(profile, hours, seed) for profile in profiles])
    reported = run_check(series)
    months = days * 24 / MONTH
    rows: dict[str, Flags] = {"of any metric": np.any(reported, axis=1)}
    rows |= {f"of {metric}": reported[:, place] for place, metric in enumerate(DISTANCES)}
    truths = [truth(profile, hours[READ:], seed) for profile in profiles]
    counts = {
        name: [classify(flags, *true) for flags, true in zip(of_models, truths, strict=True)]
        for name, of_models in rows.items()
    }
    found = {
        f"false, {name}": statistics.mean(one.false for one in of_models) / months
        for name, of_models in counts.items()
    }
    every = counts["of any metric"]
    found["during an incident"] = statistics.mean(one.incident for one in every) / months
    found["after a shift"] = statistics.mean(one.shift for one in every) / months
    return Results(
        alarms=found,
        models={
            profile.name: one.false / months for profile, one in zip(profiles, every, strict=True)
        },
        detections=dict(_detections(profiles, series, seed)),
    )


def hourly_medians(profile: Profile, hours: Integers, seed: int) -> Array:
    """Return the medians of simulated hours, shape (4, hours), metrics in the order of `METRICS`.

    Args:
        profile: the endpoint.
        hours: numbers of the hours since the Unix epoch.
        seed: the user's seed.
    """
    result = simulate(profile, hours, interval=HOUR, points=POINTS, seed=seed)
    return np.median([result.ttft, result.tps, result.e2e_latency, result.rps], axis=2)


def run_check(series: Array) -> Flags:
    """Run the check after each hour but the first `READ`, on the `READ` hours that end with it.

    Args:
        series: hourly medians of several series, shape (series, 4, hours).

    Returns:
        Whether each check reports a series and metric, shape (series, len(DISTANCES), checks).
    """
    names = tuple(map(str, range(len(series))))
    starts = [START + timedelta(hours=hour) for hour in range(READ)]
    metrics = list(DISTANCES)
    reported = np.zeros((len(series), len(metrics), series.shape[2] - READ), dtype=bool)
    for check in range(reported.shape[2]):
        read = series[..., check + 1 : check + 1 + READ]
        for one in find_regressions(History(names, starts, timedelta(hours=1), read)):
            reported[int(one.llm_name), metrics.index(one.metric), check] = True
    return reported


def alarms(reported: Flags) -> Iterator[tuple[int, int]]:
    """Yield the first and the last check of each alarm.

    Checks that report the model belong to one alarm if their stretches overlap.

    Args:
        reported: whether each check reports the model, shape (checks,).
    """
    checks = np.flatnonzero(reported)
    for alarm in np.split(checks, np.flatnonzero(np.diff(checks) >= STRETCH) + 1):
        if alarm.size:
            yield int(alarm[0]), int(alarm[-1])


def classify(reported: Flags, incident: Flags, fall: Flags) -> Alarms:
    """Count alarms by what happened at the time.

    Args:
        reported: whether the check after each hour reports the model, shape (hours,).
        incident: whether an incident overlaps each hour, same shape.
        fall: whether the speed falls in each hour, same shape.
    """
    counts = {"incident": 0, "shift": 0, "false": 0}
    for first, last in alarms(reported):
        if incident[max(0, first + 1 - STRETCH) : last + 1].any():
            counts["incident"] += 1
        elif fall[max(0, last + 1 - WEEK) : last + 1].any():
            counts["shift"] += 1
        else:
            counts["false"] += 1
    return Alarms(**counts)


def truth(profile: Profile, hours: Integers, seed: int) -> tuple[Flags, Flags]:
    """Return whether a random incident overlaps each hour, and whether the speed falls in it.

    Args:
        profile: the endpoint.
        hours: numbers of contiguous hours since the Unix epoch.
        seed: the user's seed.
    """
    edges = np.append(hours, hours[-1] + 1) * float(HOUR)
    overlapped = np.zeros(hours.size, dtype=bool)
    for one in random_incidents(edges[0], edges[-1], seed=seed, model=profile.name):
        overlapped |= (edges[:-1] < one.end) & (edges[1:] > one.start)
    speeds = speed(profile, edges, seed=seed)
    return overlapped, speeds[1:] < (1.0 - FALL) * speeds[:-1]


def _detections(
    profiles: Sequence[Profile], series: Array, seed: int
) -> Iterator[tuple[str, Array]]:
    """Yield the name and the delays of each event, planted at the same times."""
    slots = np.arange(READ, series.shape[2] - SLOT + 1, SLOT)
    room = SLOT - WEEK - STRETCH
    times = slots + np.random.default_rng(seed).uniform(0, room, (len(profiles), slots.size))
    for factor in CAPACITY_FACTORS:
        for duration in DURATIONS:
            changed = [
                incidents(profile, starts, duration, factor, seed)
                for profile, starts in zip(profiles, times, strict=True)
            ]
            yield (
                f"incident, {factor:g} of the capacity, {duration} h",
                delays(series, times, np.stack(changed)),
            )
    yield "nothing, 24 h", delays(series, times, _after(series, times, DURATIONS[-1]))
    week = _after(series, np.floor(times), WEEK)
    power = np.array([SPEED_POWER[metric] for metric in METRICS])[:, np.newaxis]
    for loss in SHIFTS:
        changed_week = week * (1.0 - loss) ** power
        yield f"shift, {loss:.0%} slower", delays(series, np.floor(times), changed_week)
    yield "nothing, 7 days", delays(series, np.floor(times), week)


def incidents(
    profile: Profile, starts: Array, duration: int, capacity_factor: float, seed: int
) -> Array:
    """Return the medians of the hours that incidents overlap, shape (starts, 4, duration + 1).

    Args:
        profile: the endpoint.
        starts: starts of the incidents [h since `FIRST`].
        duration: of each incident [h].
        capacity_factor: share of the capacity that is left.
        seed: the user's seed.
    """
    planted = tuple(
        Incident((FIRST + start) * HOUR, (FIRST + start + duration) * HOUR, capacity_factor)
        for start in starts.tolist()
    )
    hours = FIRST + starts.astype(np.int64)[:, np.newaxis] + np.arange(duration + 1)
    changed = replace(profile, incidents=profile.incidents + planted)
    values = hourly_medians(changed, hours.ravel(), seed)
    return values.reshape(len(METRICS), *hours.shape).swapaxes(0, 1)


def _after(series: Array, times: Array, length: int) -> Array:
    """Return the hours from each time on, shape (*times.shape, 4, length)."""
    return np.stack(
        [
            [one[:, int(time) : int(time) + length] for time in of_model]
            for one, of_model in zip(series, times, strict=True)
        ]
    )


def delays(series: Array, times: Array, changed: Array) -> Array:
    """Return the time from the start of each event to the check that reports it [h].

    Each event is alone: the hours before and after it are those of the series. It is found if a
    check reports any metric while a stretch overlaps the event.

    Args:
        series: hourly medians of each model, shape (models, 4, hours).
        times: starts of the events [h since the start of the series], shape (models, events).
        changed: hours from the events' starts on, shape (models, events, 4, length).

    Returns:
        The delays, NaN if the event was not found, shape (models * events,).
    """
    length = changed.shape[3]
    whole = np.floor(times)
    pieces = _after(series, whole - READ, READ + length + STRETCH - 1)
    pieces[..., READ : READ + length] = changed
    reported: Flags = np.any(run_check(pieces.reshape(-1, *pieces.shape[2:])), axis=1)
    delay = reported.argmax(axis=1) + 1.0 - (times - whole).ravel()
    return np.where(np.any(reported, axis=1), delay, np.nan)


def markdown(results: Sequence[Results]) -> str:
    """Return the tables of alarms, of models and of planted events.

    Args:
        results: one per seed, at least one.
    """
    alarm_rows = [
        (name, spread([one.alarms[name] for one in results])) for name in results[0].alarms
    ]
    model_rows = [
        (literal(name), spread([one.models[name] for one in results])) for name in results[0].models
    ]
    event_rows = []
    for name in results[0].detections:
        each = [one.detections[name] for one in results]
        found = [100.0 * float(np.isfinite(one).mean()) for one in each]
        late = [float(np.nanmedian(one)) for one in each if np.isfinite(one).any()]
        event_rows.append((name, spread(found), spread(late)))
    return "\n\n".join(
        (
            table(("alarms per model and month", "number"), "lr", alarm_rows),
            table(("false alarms per month", "number"), "lr", model_rows),
            table(("planted", "found [%]", "delay [h]"), "lrr", event_rows),
        )
    )


def spread(values: Sequence[float]) -> str:
    """Return the median, and in brackets the smallest and the largest value."""
    if not values:
        return ""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def main() -> None:
    """Measure the check and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.regressions", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, metavar="SEED")
    parser.add_argument("--models", nargs="+", default=DEFAULT_MODELS, metavar="MODEL")
    parser.add_argument("--days", type=int, default=365, help="at least 18")
    arguments = parser.parse_args()
    if arguments.days * 24 < SLOT:
        parser.error(f"--days is {arguments.days}, but must be at least {SLOT // 24}")
    profiles = [profile_for(name) for name in arguments.models]
    print(markdown([measure(profiles, arguments.days, seed) for seed in arguments.seeds]))


if __name__ == "__main__":
    main()
