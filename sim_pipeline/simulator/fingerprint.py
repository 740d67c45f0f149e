"""What a window's numbers depend on, as a digest: equal digests, equal numbers."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from sim_pipeline.simulator.arguments import check_run, check_windows
from sim_pipeline.simulator.profiles import Profile

SIMULATOR_VERSION = 1
"""To be raised with every change that changes a simulated number."""


def fingerprints(
    profile: Profile,
    windows: npt.NDArray[np.integer[Any]] | Sequence[int],
    *,
    interval: int,
    points: int,
    seed: int,
) -> list[str]:
    """Return the fingerprint of each window.

    It covers all that `simulate` makes the window's numbers from: the simulator's version, the
    seed, points, interval, window number and profile, of the profile's incidents only those that
    overlap the window, and not its source, on which no number depends.

    Args:
        profile: the model's endpoint.
        windows: window numbers, shape (n_windows,), as for `simulate`.
        interval: length of a window [s], in [1, 604800].
        points: slices of a window, in [1, 10000].
        seed: the user's seed, >= 0.

    Returns:
        32 hexadecimal digits a window, in the order given.

    Raises:
        ValueError: if an argument is out of its range, naming it and what is allowed.
    """
    check_run(interval=interval, points=points, seed=seed)
    numbers = check_windows(windows, interval)
    fields = asdict(profile)
    del fields["source"], fields["incidents"]
    common = {
        "version": SIMULATOR_VERSION,
        "interval": interval,
        "points": points,
        "seed": seed,
        "profile": _floats(fields),
    }
    base = hashlib.blake2b(json.dumps(common, sort_keys=True).encode(), digest_size=16)

    # Incidents are few and touch few windows: note them down by window.
    starts = numbers * interval
    overlapping: dict[int, bytes] = {}
    for incident in sorted(set(profile.incidents)):
        text = repr((float(incident.start), float(incident.end), float(incident.capacity_factor)))
        touched = (starts < incident.end) & (starts + interval > incident.start)
        for index in np.flatnonzero(touched).tolist():
            overlapping[index] = overlapping.get(index, b"") + text.encode()

    digests = []
    for index, number in enumerate(numbers.tolist()):
        digest = base.copy()
        digest.update(b"%d|" % number)
        digest.update(overlapping.get(index, b""))
        digests.append(digest.hexdigest())
    return digests


def _floats(value: object) -> object:
    """Write every number of a tree as a float, so that 20 and 20.0 are the same profile."""
    if isinstance(value, dict):
        return {key: _floats(item) for key, item in value.items()}
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
