"""Fit profiles to published quantiles, and measure how far the simulated ones are from them.

    python -m benchmarks.fits

benchmarks/published.csv has the quantiles, and says which were published and which come from the
shape of many endpoints. Each profile is simulated over 72 consecutive hours, which end when the
published figures do, with seeds that the fit does not use. An error is the median over the seeds.
It prints a Markdown table, and the median and the worst of the errors.
"""

import csv
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Final

import numpy as np

from sim_pipeline.fit.loads import METRICS
from sim_pipeline.fit.measurement import Distribution, LoadPoint, complete
from sim_pipeline.fit.solve import fit_profile
from sim_pipeline.markdown import literal, table
from sim_pipeline.simulator.demand import DAY, HOUR, midnight
from sim_pipeline.simulator.profiles import Profile
from sim_pipeline.simulator.simulation import simulate

MEASURED: Final = date(2026, 7, 10)
LEVELS: Final = {"p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}
SEEDS: Final = range(1, 17)
HOURS, POINTS = 72, 60
# The largest error allowed, by level.
ALLOWED: Final = {"p05": 0.15, "p50": 0.05, "p95": 0.15}
_FILE = Path(__file__).with_name("published.csv")


def published() -> Iterator[tuple[str, LoadPoint]]:
    """Yield each model of the file, and its quantiles."""
    lines = _FILE.read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    for ttft, tps in zip(rows[::2], rows[1::2], strict=True):
        given = [
            Distribution({level: float(row[name]) for name, level in LEVELS.items()})
            for row in (ttft, tps)
        ]
        point = LoadPoint(
            source=f"{_FILE.name}: {ttft['model']}",
            tool="CSV of quantiles",
            ttft=given[0],
            tps=given[1],
        )
        yield ttft["model"], complete(point)


def errors(profile: Profile, point: LoadPoint) -> dict[tuple[str, str], list[float]]:
    """Return the relative errors of each quantile, one for each seed, by metric and level."""
    stop = int((midnight(profile.measured) + DAY) // HOUR)
    hours = range(stop - HOURS, stop)
    steady = replace(profile, shifts_per_year=0.0)
    runs = [simulate(steady, hours, interval=int(HOUR), points=POINTS, seed=s) for s in SEEDS]
    found = {}
    for metric in METRICS:
        measured: Distribution = getattr(point, metric)
        for name, level in LEVELS.items():
            given = measured.quantiles[level]
            found[metric, name] = [
                float(np.quantile(getattr(run, metric), level)) / given - 1.0 for run in runs
            ]
    return found


def main() -> None:
    """Print the errors of all models."""
    rows, misses = [], []
    single: dict[str, list[bool]] = {}
    by_quantile: dict[tuple[str, str], list[float]] = {}
    for name, point in published():
        began = time.perf_counter()
        profile = fit_profile([point], name=name, measured=MEASURED).profile
        taken = time.perf_counter() - began
        runs = errors(profile, point)
        found = {key: statistics.median(values) for key, values in runs.items()}
        for (metric, level), values in runs.items():
            if level in ALLOWED:
                single.setdefault(f"{metric.upper()} {level}", []).extend(
                    abs(value) > ALLOWED[level] for value in values
                )
        rows.append([literal(name), *(f"{one:+.1%}" for one in found.values()), f"{taken:.1f}"])
        for (metric, level), error in found.items():
            by_quantile.setdefault((metric, level), []).append(abs(error))
            if abs(error) > ALLOWED.get(level, 1.0):
                misses.append(f"{name} {metric} {level} {error:+.0%}")
    for label, summary in (("median of errors", statistics.median), ("worst", max)):
        cells = [f"{summary(values):.1%}" for values in by_quantile.values()]
        rows.append([label, *cells, ""])
    heads = [f"{metric.upper()} {level}" for metric, level in by_quantile]
    print(table(("model", *heads, "fit [s]"), "l" + "r" * (len(heads) + 1), rows))
    print(f"\nBeyond {ALLOWED['p50']:.0%} at p50 or {ALLOWED['p95']:.0%} at p05 and p95:")
    print("; ".join(misses) or "none")
    print("Share of single runs of 72 hours beyond these limits:")
    print("; ".join(f"{name} {statistics.mean(beyond):.0%}" for name, beyond in single.items()))


if __name__ == "__main__":
    main()
