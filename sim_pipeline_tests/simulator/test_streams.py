"""An address determines a stream's numbers, and different addresses give different numbers."""

import numpy as np
import pytest
from scipy import stats

from sim_pipeline.simulator.streams import WindowStreams, stream_key

KEY = stream_key("windows", seed=42, model="GPT-4o", interval=3600)


def test_stream_is_philox_at_its_counter() -> None:
    generator = WindowStreams(KEY).at(window=7, chunk=3)
    # Word 0 of the counter is the position in the stream; chunk and window follow.
    counter = np.array([0, 3, 7, 0], dtype=np.uint64)
    reference = np.random.Generator(np.random.Philox(key=KEY, counter=counter))
    assert np.array_equal(generator.standard_normal(100), reference.standard_normal(100))


def test_stream_does_not_depend_on_earlier_draws() -> None:
    streams = WindowStreams(KEY)
    first = streams.at(5, 0).random(9)
    # An odd number of 32-bit draws leaves half a word in the buffer, a gamma draw any number.
    streams.at(6, 0).integers(0, 10, 3, dtype=np.uint32)
    streams.at(6, 1).standard_gamma(0.8, 7)
    assert np.array_equal(streams.at(5, 0).random(9), first)


def test_different_addresses_give_different_streams() -> None:
    keys = [
        KEY,
        stream_key("windows", seed=43, model="GPT-4o", interval=3600),
        stream_key("windows", seed=42, model="GPT-4", interval=3600),
        stream_key("windows", seed=42, model="GPT-4o", interval=60),
        stream_key("drift", seed=42, model="GPT-4o", interval=3600),
    ]
    addresses = [(key, window, chunk) for key in keys for window in (0, 1) for chunk in (0, 1)]
    draws = [WindowStreams(key).at(window, chunk).random(4) for key, window, chunk in addresses]
    assert np.unique(np.concatenate(draws)).size == 4 * len(addresses)


def test_neighbouring_streams_are_independent() -> None:
    streams = WindowStreams(KEY)
    first = np.array([streams.at(window, 0).standard_normal(4) for window in range(20_000)])
    assert stats.kstest(first.ravel(), "norm").pvalue > 1e-3
    neighbours = np.corrcoef(first[:-1].T, first[1:].T)
    off_diagonal = neighbours[~np.eye(8, dtype=bool)]
    assert np.abs(off_diagonal).max() < 5.0 / np.sqrt(len(first))


def test_key_accepts_any_seed_size() -> None:
    keys = {stream_key("windows", seed=2**power, model="m").tobytes() for power in range(200)}
    assert len(keys) == 200


def test_golden_numpy_stream() -> None:
    """A NumPy release may change what a Generator draws; every simulated number would change."""
    generator = WindowStreams(KEY).at(window=7, chunk=3)
    assert generator.standard_normal(3).tolist() == pytest.approx(
        [-0.7877677461459321, -1.5312470636845268, 1.6721642788504971], rel=1e-12
    )
    assert generator.random(3).tolist() == [
        0.9386602988277841,
        0.36244274291947143,
        0.5346027170805541,
    ]
    assert generator.standard_gamma(0.8, 3).tolist() == pytest.approx(
        [0.32810798557436616, 0.4115927348967194, 2.02567219312468], rel=1e-12
    )
    assert [generator.poisson(mean) for mean in (0.5, 20.0, 5e6)] == [1, 26, 5001150]
