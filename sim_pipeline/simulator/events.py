"""Labelled truth: when and why the metrics of a model move, apart from season, drift and noise.

Each kind of event, what begins and ends it, and its size:

- incident: one on a given date, or a random one. Share of the capacity that is left.
- level_shift: the model's or its creator's speed jumps by `SHIFT` or more, for good. Speed after
  the jump / before it.
- capacity: the endpoint's own slow factor of capacity is `LOW_CAPACITY` or less. Lowest factor.
- burst: slow bursts and heavy clients together multiply the demand by `HIGH_DEMAND` or more.
  Highest factor.
- failure_spell: a spell of failures, up to its end or the start of the next. Share of the requests
  that fail because of it.
- release, retirement: the first day of full service, and the day on which it ends, for good. Demand
  long after it / before it.

The kinds capacity and burst are looked for every `GRID` seconds since the epoch: shorter ones may
be missing. Their start and end are exact to the second, their size is that at an instant of the
grid. Events depend on the profile and the seed only, not on windows.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim_pipeline.metrics import FAILURE_KINDS, METRICS
from sim_pipeline.simulator.arguments import MAX_EPOCH_SECONDS
from sim_pipeline.simulator.capacity import all_incidents, own_capacity, shifts
from sim_pipeline.simulator.demand import DAY, TRICKLE, bursts, midnight
from sim_pipeline.simulator.failures import spells
from sim_pipeline.simulator.profiles import Profile

SHIFT = 1.02
"""Smallest factor, up or down, of a level shift that is an event."""
LOW_CAPACITY = 0.85
"""Largest slow factor of the capacity in an event."""
HIGH_DEMAND = 2.0
"""Smallest factor of bursts and heavy clients in an event."""
GRID = 300
"""Time between the instants at which spells of low capacity and bursts are looked for [s]."""

_STEP = 288
"""Instants by which the search is extended while a spell goes on: a day."""
_PIECE = 60 * DAY
"""Longest range that is searched at once [s]: memory stays bounded."""
_DIGITS = 6
"""Decimals of the sizes that exp gives: its last digits may differ between processors."""
_OF_REQUESTS, _OF_ENDPOINT = METRICS[:3], METRICS[3:]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, order=True)
class Event:
    """An event of a model.

    Attributes:
        kind: one of `EVENT_KINDS`.
        started_at: first instant [s since the Unix epoch].
        ended_at: first instant after the event [s since the Unix epoch], or None: for good.
        size: a factor or a share, > 0; see the module's docstring.
        metrics: those that it moves, in the order of `METRICS`.
    """

    kind: str
    started_at: float
    ended_at: float | None
    size: float
    metrics: tuple[str, ...]

    def overlaps(self, first: float, last: float) -> bool:
        """Return whether the event overlaps [first, last) [s]; without an end, its start counts."""
        if self.ended_at is None:
            return first <= self.started_at < last
        return self.started_at < last and self.ended_at > first


def events_between(profile: Profile, first: float, last: float, *, seed: int) -> list[Event]:
    """Return the events of a model that overlap a range of time, by start.

    An event is the same, bit for bit, in every range that it overlaps.

    Args:
        profile: the model's endpoint.
        first: first instant [s since the Unix epoch], >= 0.
        last: first instant after the range [s since the Unix epoch], >= first.
        seed: the user's seed.

    Raises:
        ValueError: first and last are out of range.
    """
    if not 0 <= first <= last <= MAX_EPOCH_SECONDS:
        raise ValueError(
            f"first is {first!r} and last is {last!r}, but must be 0 <= first <= last <= "
            f"{MAX_EPOCH_SECONDS}"
        )
    found: set[Event] = set()
    for piece in range(math.ceil((last - first) / _PIECE)):
        start = first + piece * _PIECE
        stop = min(start + _PIECE, last)
        found.update(
            event for event in _events(profile, start, stop, seed) if event.overlaps(start, stop)
        )
    return sorted(found, key=lambda event: (event.started_at, event))


def _events(profile: Profile, first: float, last: float, seed: int) -> Iterator[Event]:
    """Return the events that overlap [first, last), and some that do not."""
    for incident in all_incidents(profile, first, last, seed=seed):
        if incident.capacity_factor < 1.0:
            yield Event("incident", incident.start, incident.end, incident.capacity_factor, METRICS)
    for time, factor in shifts(profile, first, last, seed=seed):
        if max(factor, 1.0 / factor) >= SHIFT:
            yield Event("level_shift", time, None, round(factor, _DIGITS), _OF_REQUESTS)
    yield from _slow_spells(profile, first, last, seed)
    yield from _failure_spells(profile, first, last, seed)
    for kind, day, size in (
        ("release", profile.released, 1.0 / TRICKLE),
        ("retirement", profile.retired, TRICKLE),
    ):
        if day is not None:
            yield Event(kind, midnight(day), None, size, _moved_by_demand(profile))


def _moved_by_demand(profile: Profile) -> tuple[str, ...]:
    """Return the metrics that depend on demand: RPS alone if the provider scales with all of it."""
    return METRICS if profile.elasticity > 0.0 else _OF_ENDPOINT


def _slow_spells(profile: Profile, first: float, last: float, seed: int) -> Iterator[Event]:
    """Return the spells of low capacity and the bursts that overlap [first, last)."""
    if profile.capacity_sd > 0.0:
        for start, end, peak in _spells(
            lambda times: -own_capacity(profile, times, seed=seed), -LOW_CAPACITY, first, last
        ):
            yield Event("capacity", start, end, round(-peak, _DIGITS), _OF_REQUESTS)
    if profile.workload.burst_sd > 0.0 or profile.workload.heavy_share > 0.0:
        for start, end, peak in _spells(
            lambda times: bursts(profile, times, seed=seed), HIGH_DEMAND, first, last
        ):
            yield Event("burst", start, end, round(peak, _DIGITS), _moved_by_demand(profile))


def _failure_spells(profile: Profile, first: float, last: float, seed: int) -> Iterator[Event]:
    """Return the spells of failures that can overlap [first, last]."""
    if profile.spells_per_month > 0.0 and profile.spell_failures > 0.0:
        # With the next spell: it ends the one before.
        cell = 30 * DAY / profile.spells_per_month
        known = spells(profile, first, last + cell, seed=seed)
        ends = np.minimum(known.end[:-1], known.start[1:])
        # The share of the requests that fail for one reason is limited, see `failure_shares`.
        shares = np.minimum(known.share, (1.0 - profile.failure_rate) / len(FAILURE_KINDS))
        for start, end, share in zip(
            known.start[:-1].tolist(), ends.tolist(), shares[:-1].tolist(), strict=True
        ):
            yield Event("failure_spell", start, end, share, _OF_ENDPOINT)


def _spells(
    factor: Callable[[Array], Array], threshold: float, first: float, last: float
) -> Iterator[tuple[float, float, float]]:
    """Return the start, the end and the peak of each spell in which a factor is high.

    A spell consists of neighbouring instants of the grid at which the factor is ``threshold`` or
    more, and of the seconds before and after them up to the first at which it is not.

    Args:
        factor: gives the factor at times of one dimension or more.
        threshold: smallest factor of a spell.
        first: first instant [s]; all spells that overlap the range are returned.
        last: first instant after the range [s].
    """
    numbers = np.arange(math.floor(first / GRID), math.ceil(last / GRID) + 1)
    values = factor((numbers * GRID).astype(np.float64))
    # A spell may begin before the range and end after it.
    while values[0] >= threshold:
        before = np.arange(numbers[0] - _STEP, numbers[0])
        numbers = np.append(before, numbers)
        values = np.append(factor((before * GRID).astype(np.float64)), values)
    while values[-1] >= threshold:
        after = np.arange(numbers[-1] + 1, numbers[-1] + 1 + _STEP)
        numbers = np.append(numbers, after)
        values = np.append(values, factor((after * GRID).astype(np.float64)))
    turns = np.flatnonzero(np.diff(values >= threshold)) + 1
    if not turns.size:
        return
    peaks = np.maximum.reduceat(values, turns)[::2]
    begins, stops = numbers[turns[::2]], numbers[turns[1::2] - 1]
    inner = np.concatenate([begins, stops]) * GRID
    away = np.repeat([-1, 1], begins.size)
    seconds = inner[:, np.newaxis] + away[:, np.newaxis] * np.arange(1, GRID + 1)
    # The neighbouring instant of the grid is the last of these seconds; it is not in the spell.
    outside = inner + away * (1 + np.argmax(factor(seconds.astype(np.float64)) < threshold, axis=1))
    starts, ends = outside[: begins.size] + 1.0, outside[begins.size :] + 0.0
    yield from zip(starts.tolist(), ends.tolist(), peaks.tolist(), strict=True)
