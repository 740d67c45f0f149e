"""The observations of benchmarks/intervals.py: the same slow state, other requests."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks import intervals
from benchmarks.intervals import Feed, coverage, measure, observe, redrawn
from sim_pipeline.metrics import METRICS
from sim_pipeline.simulator.catalogue import MODELS
from sim_pipeline.simulator.streams import stream_key

GPT_4O = MODELS["GPT-4o"]


def test_streams_of_demand_and_windows_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new stream must be redrawn or kept on purpose."""
    kept: set[str] = set()
    drawn: set[str] = set()

    def recorded(number: int) -> Callable[..., np.ndarray]:
        def key(purpose: str, **identity: Any) -> np.ndarray:
            found = redrawn(number)(purpose, **identity)
            same = np.array_equal(found, stream_key(purpose, **identity))
            (kept if same else drawn).add(purpose.rstrip(" 0123456789"))
            return found

        return key

    monkeypatch.setattr(intervals, "redrawn", recorded)
    monkeypatch.setattr(intervals, "WEEK", 1)
    # Windows of a minute also show the fast bursts.
    observe(GPT_4O, Feed(60, 5, range(1), observations=1), seed=1)
    assert (kept, drawn) == ({"drift"}, {"burst", "heavy client", "windows"})


def test_observations_differ_but_share_the_season() -> None:
    seen, starts = observe(GPT_4O, Feed(3600, 5, range(1), observations=2), seed=1)
    assert seen.shape == (2, len(METRICS), 5 * 168)
    assert np.diff(starts)[4::5].tolist() == [3600] * 167
    assert not (seen[0] == seen[1]).any()
    rps = np.log(seen[:, METRICS.index("RPS")])
    assert np.corrcoef(rps)[0, 1] > 0.5


def test_coverage_counts_intervals_around_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals from minus infinity contain every truth, those below all values none."""
    feed = Feed(3600, 5, range(1), observations=2)
    for ends, share in (((-np.inf, np.inf), 1), ((-2.0, -1.0), 0)):
        monkeypatch.setattr(intervals, "intervals", lambda *_, ends=ends: (ends, ends))
        assert (coverage(GPT_4O, feed, seed=1) == share).all()


def test_quick_benchmark_has_a_row_per_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "DEFAULT_MODELS", ("GPT-4o",))
    rows = list(measure(quick=True))
    assert len(rows) == 2 * len(METRICS) * 2 + 1
    assert rows[0].what.startswith("p50 of TTFT, 24 h, windows of 3,600 s with 5 values")
    assert rows[-1].note == "10 comparisons"
