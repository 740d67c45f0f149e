"""The random numbers of a slice have the documented distributions."""

import numpy as np
import pytest
from scipy import stats

from sim_pipeline.simulator.draws import Draws, Normal, Uniform


@pytest.mark.parametrize("cv", [0.5, 1.0, 1.1, 3.0])
def test_gaps_have_the_given_variation(cv: float) -> None:
    draws = Draws.empty(500, 200)
    draws.fill(slice(0, 500), np.random.default_rng(1), cv)
    shape = cv**-2
    assert stats.kstest(draws.gaps.ravel(), "gamma", args=(shape,)).pvalue > 1e-3
    assert draws.gaps.std() / draws.gaps.mean() == pytest.approx(cv, rel=0.03)
    # The gap that spans an instant is length-biased.
    assert stats.kstest(draws.covering, "gamma", args=(shape + 1.0,)).pvalue > 1e-3


def test_each_purpose_has_its_own_numbers() -> None:
    draws = Draws.empty(20_000, 64)
    draws.fill(slice(0, 20_000), np.random.default_rng(3), 1.1)
    for values, purposes in ((draws.normals, Normal), (draws.uniforms, Uniform)):
        assert values.shape == (20_000, len(purposes))
        # A number that two purposes had would be an alias.
        assert sorted(purposes.__members__.values()) == list(range(len(purposes.__members__)))
    for values, law in (
        (draws.normals, "norm"),
        (draws.uniforms, "uniform"),
        (draws.prompts, "norm"),
        (draws.outputs, "norm"),
    ):
        assert stats.kstest(values.ravel(), law).pvalue > 1e-3
    numbers = np.hstack([draws.normals, draws.uniforms, draws.prompts[:, :2], draws.outputs[:, :2]])
    correlations = np.corrcoef(numbers.T) - np.eye(numbers.shape[1])
    assert np.abs(correlations).max() < 5.0 / np.sqrt(len(numbers))


def test_every_number_is_drawn() -> None:
    draws = Draws.empty(6, 64)
    for values in vars(draws).values():
        values.fill(np.nan)
    draws.fill(slice(0, 4), np.random.default_rng(1), 1.1)
    draws.fill(slice(4, 6), np.random.default_rng(2), 1.1)
    for values in vars(draws).values():
        assert np.isfinite(values).all()
        assert np.unique(values).size == values.size
