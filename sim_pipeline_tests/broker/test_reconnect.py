"""The delays before a connection is opened again."""

import pytest

from sim_pipeline.broker.reconnect import ReconnectDelays


@pytest.mark.parametrize(
    ("failures", "longest"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 5.0), (10_000, 5.0)]
)
def test_delays_double_up_to_the_limit(failures: int, longest: float) -> None:
    delays = ReconnectDelays(0.5, 5.0)
    drawn = [delays.after(failures) for _ in range(100)]
    assert longest / 2 <= min(drawn) <= max(drawn) <= longest
    assert len(set(drawn)) > 1
