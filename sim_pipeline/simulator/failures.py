"""Requests that fail: why, and how many."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim_pipeline.metrics import FAILURE_KINDS
from sim_pipeline.simulator.dated import uniforms
from sim_pipeline.simulator.demand import DAY
from sim_pipeline.simulator.profiles import Profile
from sim_pipeline.simulator.streams import stream_key

RATE_LIMITED, OVERLOADED, TIMEOUT = range(len(FAILURE_KINDS))
SPELL_MINUTES = (10.0, 60.0)
"""Shortest and longest spell of failures [E]."""
SPELL_KINDS = (0.4, 0.8)
"""A spell is rate_limited if its uniform is below the first, overloaded if below the second, else
timeout [E]."""
LOST_REQUESTS = 0.25
"""Share of the requests to the lost capacity that fail during an incident; the others are routed
around it [E]."""
LOST_TIMEOUT = 0.3
"""Share of these failures that are timeouts; the others are refused as overloaded [E]."""

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Spells:
    """Spells of failures, by start; arrays of shape (spells,).

    Attributes:
        start: seconds since the Unix epoch.
        end: seconds since the Unix epoch.
        share: share of the requests that fail.
        kind: index in `FAILURE_KINDS`.
    """

    start: Array
    end: Array
    share: Array
    kind: Integers


def spells(profile: Profile, first: float, last: float, *, seed: int) -> Spells:
    """Return the spells that can overlap [first, last].

    Time is cut into as many cells as spells; one spell begins in each. The share of failures is
    uniform between 0 and twice `spell_failures`.

    Args:
        profile: the endpoint.
        first: seconds since the Unix epoch, >= 0.
        last: seconds since the Unix epoch, >= first.
        seed: the user's seed.
    """
    cell = 30 * DAY / profile.spells_per_month
    shortest, longest = (minutes * 60.0 for minutes in SPELL_MINUTES)
    # The cell before: at least one spell begins before ``first``. A spell is shorter than a cell.
    cells = np.arange(math.floor(first / cell) - 1, math.floor(last / cell) + 1)
    key = stream_key("failures", seed=seed, model=profile.name)
    at, length, share, kind = uniforms(key, cells, 4)
    start = (cells + at) * cell
    return Spells(
        start=start,
        end=start + shortest + (longest - shortest) * length,
        share=2.0 * profile.spell_failures * share,
        kind=np.searchsorted(SPELL_KINDS, kind, side="right"),
    )


def failure_shares(profile: Profile, times: Array, left: Array, *, seed: int) -> Array:
    """Return the share of the accepted requests that fail, by kind, shape (3, *times.shape).

    Args:
        profile: the endpoint.
        times: seconds since the Unix epoch, >= 0, one or more dimensions, not empty.
        left: share of the capacity that incidents leave, same shape.
        seed: the user's seed.
    """
    shares = np.full((len(FAILURE_KINDS), *times.shape), profile.failure_rate / len(FAILURE_KINDS))
    lost = LOST_REQUESTS * (1.0 - left)
    shares[OVERLOADED] += (1.0 - LOST_TIMEOUT) * lost
    shares[TIMEOUT] += LOST_TIMEOUT * lost
    if profile.spells_per_month > 0.0 and profile.spell_failures > 0.0:
        known = spells(profile, float(times.min()), float(times.max()), seed=seed)
        # Where two spells overlap, the later one counts.
        latest = np.searchsorted(known.start, times, side="right") - 1
        within = np.where(times < known.end[latest], known.share[latest], 0.0)
        for kind in range(len(FAILURE_KINDS)):
            shares[kind] += np.where(known.kind[latest] == kind, within, 0.0)
    return np.minimum(shares, 1.0 / len(FAILURE_KINDS), out=shares)
