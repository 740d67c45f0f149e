"""Token counts and their moments, compared with SciPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sim_pipeline.simulator.lengths import TokenLengths
from sim_pipeline.simulator.profiles import AZURE_OUTPUTS, AZURE_PROMPTS

laws = st.builds(
    TokenLengths,
    log_median=st.floats(0.0, 8.0),
    log_sd=st.floats(0.05, 2.0),
    minimum=st.integers(1, 50),
    maximum=st.integers(51, 5_000),
)


@given(laws)
@settings(max_examples=50, derandomize=True, deadline=None)
def test_moments_match_clipped_lognormal(law: TokenLengths) -> None:
    counts = np.arange(law.minimum, law.maximum + 1)
    lognormal = stats.lognorm(s=law.log_sd, scale=np.exp(law.log_median))
    # A count has the mass within 0.5 of it; the first and last also have the tails.
    edges = np.concatenate(([0.0], counts[1:] - 0.5, [np.inf]))
    masses = -np.diff(lognormal.sf(edges))
    mean = float((counts * masses).sum())
    second = float((counts.astype(float) ** 2 * masses).sum())
    assert law.mean == pytest.approx(mean, rel=1e-9)
    assert law.squared_cv == pytest.approx(second / mean**2 - 1.0, rel=1e-6, abs=1e-9)


@given(laws, st.lists(st.floats(-8.0, 8.0), min_size=1))
@settings(max_examples=50, derandomize=True, deadline=None)
def test_counts_are_integers_within_bounds(law: TokenLengths, z: list[float]) -> None:
    counts = law.from_normal(np.array(z))
    assert (counts == np.rint(counts)).all()
    assert (counts >= law.minimum).all()
    assert (counts <= law.maximum).all()


@pytest.mark.parametrize("law", [AZURE_PROMPTS, AZURE_OUTPUTS])
def test_sample_has_the_published_distribution(law: TokenLengths) -> None:
    counts = np.sort(law.from_normal(np.random.default_rng(1).standard_normal(50_000)))
    inside = np.arange(law.minimum, law.maximum)
    observed = np.searchsorted(counts, inside, side="right") / counts.size
    expected = stats.norm.cdf((np.log(inside + 0.5) - law.log_median) / law.log_sd)
    assert np.abs(observed - expected).max() < stats.kstwo.isf(1e-3, counts.size)
    assert counts.mean() == pytest.approx(law.mean, rel=5.0 * np.sqrt(law.squared_cv / counts.size))


def test_zero_log_sd_gives_one_length() -> None:
    law = TokenLengths(np.log(700.0), 0.0, 1, 8192)
    assert law.mean == pytest.approx(700.0)
    assert law.squared_cv == pytest.approx(0.0, abs=1e-12)
    assert law.from_normal(np.array([-3.0, 0.0, 3.0])).tolist() == [700.0] * 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((np.nan, 1.0, 1, 10), r"log_median is nan, .* \[0, 14\]"),
        ((5.0, -1.0, 1, 10), r"log_sd is -1.0, .* \[0, 3\]"),
        ((5.0, 1.0, 0, 10), r"minimum is 0, .* integer in \[1, 1000000\]"),
        ((5.0, 1.0, 1, 10.0), r"maximum is 10.0, .* integer in \[1, 1000000\]"),
        ((5.0, 1.0, 10, 10), "maximum is 10, but must be more than minimum, 10"),
    ],
)
def test_bad_field_is_named(fields: tuple[float, float, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenLengths(*fields)
