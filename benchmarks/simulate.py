"""Benchmark: the time and memory of simulating, relative to drawing the random numbers only.

`python -m benchmarks.simulate` prints details by model and by size; it takes about a minute on one
core. `make bench` runs the summary.
"""

import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from unittest import mock

import numpy as np

from benchmarks.figures import Row
from sim_pipeline.simulator.catalogue import MODELS
from sim_pipeline.simulator.draws import Draws
from sim_pipeline.simulator.fingerprint import fingerprints
from sim_pipeline.simulator.profiles import Profile
from sim_pipeline.simulator.simulation import Simulation, simulate

HOUR = 3600
# 2026-01-01T00:00:00Z.
START = 1_767_225_600 // HOUR
REPEATS = 3


def best_time(function: Callable[[], object]) -> float:
    """Return the shortest CPU time of `REPEATS` calls [s]."""
    return min(seconds(function) for _ in range(REPEATS))


def seconds(function: Callable[[], object]) -> float:
    """Return the CPU time of a call [s]."""
    begin = time.process_time()
    function()
    return time.process_time() - begin


def run(profile: Profile, windows: int, points: int = 5) -> Simulation:
    """Simulate hourly windows."""
    numbers = np.arange(START, START + windows)
    return simulate(profile, numbers, interval=HOUR, points=points, seed=42)


def numbers_used(profile: Profile, windows: int, points: int) -> Counter[str]:
    """Count the random numbers of each kind that a simulation draws."""
    used: Counter[str] = Counter()
    fill = Draws.fill

    def counting(
        draws: Draws, rows: slice, generator: np.random.Generator, arrival_cv: float
    ) -> None:
        used.update({name: values[rows].size for name, values in vars(draws).items()})
        used.update(streams=1)
        fill(draws, rows, generator, arrival_cv)

    with mock.patch.object(Draws, "fill", counting):
        run(profile, windows, points)
    return used


def draw_at_once(used: Counter[str], arrival_cv: float) -> None:
    """Draw these numbers from one stream, with one call per kind."""
    generator = np.random.Generator(np.random.Philox(1))
    shape = arrival_cv**-2
    generator.standard_normal(used["normals"] + used["prompts"] + used["outputs"])
    generator.random(used["uniforms"])
    generator.standard_gamma(shape + 1.0, used["covering"])
    generator.standard_gamma(shape, used["gaps"])
    generator.poisson(20.0, used["streams"])


def draw_all(used: Mapping[Profile, Counter[str]]) -> None:
    """Draw the random numbers of all models."""
    for profile, numbers in used.items():
        draw_at_once(numbers, profile.workload.arrival_cv)


def peak_beyond_result(profile: Profile, windows: int) -> float:
    """Return a simulation's peak memory minus the size of its result [MiB]."""
    tracemalloc.start()
    result = run(profile, windows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    kept: int = sum(values.nbytes for values in vars(result).values())
    return (peak - kept) / 2**20


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure simulating and drawing in turn.

    Args:
        quick: use 500 windows, twice, as a smoke test.
    """
    windows, times = (500, 2) if quick else (10_000, 5)
    used = {profile: numbers_used(profile, windows, 5) for profile in MODELS.values()}
    ours, drawn = [], []
    for _ in range(times):
        ours.append(seconds(lambda: [run(profile, windows) for profile in used]))
        drawn.append(seconds(lambda: draw_all(used)))
    yield Row(
        f"simulate {windows:,} windows of 5 points, each of {len(used)} models",
        "s",
        tuple(ours),
        "drawing the same random numbers in one call",
        tuple(drawn),
        note="CPU time",
    )
    yield Row(
        f"peak memory beyond the result, {10 * windows:,} windows",
        "MiB",
        (peak_beyond_result(MODELS["GPT-4o"], 10 * windows),),
        f"peak memory beyond the result, {windows:,} windows",
        (peak_beyond_result(MODELS["GPT-4o"], windows),),
    )


def say(line: str = "") -> None:
    """Write a line."""
    sys.stdout.write(line + "\n")


def main() -> None:
    """Measure and print the details."""
    say("10,000 windows of 5 points, relative to drawing the same random numbers in one call")
    say(f"{'model':20}{'numbers':>12}{'drawn [s]':>12}{'simulated [s]':>15}{'ratio':>8}")
    for profile in MODELS.values():
        used = numbers_used(profile, 10_000, 5)
        cv = profile.workload.arrival_cv
        drawn = best_time(lambda used=used, cv=cv: draw_at_once(used, cv))  # type: ignore[misc]
        taken = best_time(lambda profile=profile: run(profile, 10_000))  # type: ignore[misc]
        total = used.total()
        say(f"{profile.name:20}{total:12,}{drawn:12.3f}{taken:15.3f}{taken / drawn:8.2f}")

    gpt = MODELS["GPT-4o"]
    say()
    say("time by size, GPT-4o")
    say(f"{'windows':>10}{'points':>8}{'[s]':>10}{'us/value':>12}")
    for windows, points in ((1, 5), (100, 5), (1_000, 5), (10_000, 5), (100_000, 5),
                            (1_000, 1), (1_000, 50), (10, 10_000)):  # fmt: skip
        taken = best_time(lambda w=windows, p=points: run(gpt, w, p))  # type: ignore[misc]
        per_value = taken / (windows * points) * 1e6
        say(f"{windows:10,}{points:8,}{taken:10.4f}{per_value:12.2f}")

    say()
    say("peak memory beyond the result, GPT-4o, 5 points")
    for windows in (1_000, 10_000, 100_000):
        say(f"{windows:10,} windows {peak_beyond_result(gpt, windows):8.1f} MiB")

    say()
    begin = time.process_time()
    for profile in islice(MODELS.values(), 8):
        run(profile, 8_760)
    say(f"a year of hourly windows, eight models, 5 points: {time.process_time() - begin:.1f} s")
    begin = time.process_time()
    fingerprints(gpt, np.arange(70_080), interval=HOUR, points=5, seed=42)
    say(f"the fingerprints of these windows: {time.process_time() - begin:.2f} s")


if __name__ == "__main__":
    main()
