"""The benchmark of the fit: its file of published quantiles, and one of its rows."""

import csv
import statistics

from benchmarks.fits import _FILE, ALLOWED, LEVELS, MEASURED, errors, published
from sim_pipeline.fit.solve import fit_profile
from sim_pipeline.simulator.catalogue import MODELS


def test_published_medians_are_those_of_the_catalogue() -> None:
    points = dict(published())
    assert len(points) == 10
    for name, point in points.items():
        assert point.ttft is not None
        assert point.tps is not None
        assert point.ttft.quantiles[0.5] == MODELS[name].ttft_ref
        assert point.tps.quantiles[0.5] == MODELS[name].tps_ref
        for distribution in (point.ttft, point.tps):
            values = list(distribution.quantiles.values())
            assert values == sorted(values)


def test_file_names_the_published_levels() -> None:
    lines = _FILE.read_text(encoding="utf-8").splitlines()
    for row in csv.DictReader(line for line in lines if not line.startswith("#")):
        assert {"p50"} <= set(row["published"].split()) <= LEVELS.keys()


def test_fit_meets_published_quantiles() -> None:
    point = dict(published())["Kimi-K2.7-Code"]
    profile = fit_profile([point], name="Kimi-K2.7-Code", measured=MEASURED).profile
    for (_, level), values in errors(profile, point).items():
        assert abs(statistics.median(values)) < ALLOWED.get(level, 0.15)
