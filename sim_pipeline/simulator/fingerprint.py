"""Fingerprints: digests of all inputs that a window's numbers depend on.

Equal fingerprints mean equal numbers.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from sim_pipeline.simulator.arguments import check_run, check_windows
from sim_pipeline.simulator.profiles import Profile

SIMULATOR_VERSION = 2
"""Increment this with every change that alters a simulated number."""


def fingerprints(
    profile: Profile,
    windows: npt.NDArray[np.integer[Any]] | Sequence[int],
    *,
    interval: int,
    points: int,
    seed: int,
) -> list[str]:
    """Return the fingerprint of each window.

    It covers every input of `simulate`: the simulator's version, seed, points, interval, window
    number and profile. Of the profile's incidents it covers only those that overlap the window. It
    leaves out the profile's source, the limits (SLO) and the name of the workload, because no
    number depends on them.

    Args:
        profile: the model's endpoint.
        windows: window numbers, shape (n_windows,), as for `simulate`.
        interval: length of a window [s], in [1, 604800].
        points: slices per window, in [1, 10000].
        seed: the user's seed, >= 0.

    Returns:
        32 hexadecimal digits per window, in the order of ``windows``.

    Raises:
        ValueError: an argument is out of range; the message names it and what is allowed.
    """
    check_run(interval=interval, points=points, seed=seed)
    numbers = check_windows(windows, interval)
    fields = asdict(profile)
    del fields["source"], fields["incidents"], fields["slo"]
    del fields["workload"]["slo"], fields["workload"]["name"]
    common = {
        "version": SIMULATOR_VERSION,
        "interval": interval,
        "points": points,
        "seed": seed,
        "profile": _floats(fields),
    }
    base = hashlib.blake2b(json.dumps(common, sort_keys=True, default=str).encode(), digest_size=16)

    # There are few incidents, and each overlaps few windows: collect them by window.
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
    """Convert every integer of a tree to a float, so that 20 and 20.0 give the same digest."""
    if isinstance(value, dict):
        return {key: _floats(item) for key, item in value.items()}
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
