"""The freshness policy of the feed's assets."""

from datetime import timedelta

import dagster as dg
import pytest

from sim_pipeline.orchestration.freshness import freshness


@pytest.mark.parametrize(
    ("interval", "hours", "warn", "fail"),
    [
        (3600, 24, timedelta(hours=2, minutes=1), timedelta(hours=24)),
        (1, 24, timedelta(minutes=3), timedelta(hours=24)),
        (3600, 0, timedelta(hours=2, minutes=1), timedelta(hours=3, minutes=1)),
        (604_800, 24, timedelta(days=14, minutes=1), timedelta(days=21, minutes=1)),
    ],
)
def test_policy_warns_before_it_fails(
    interval: int, hours: int, warn: timedelta, fail: timedelta
) -> None:
    policy = freshness(timedelta(seconds=interval), timedelta(hours=hours))
    assert policy == dg.FreshnessPolicy.time_window(warn_window=warn, fail_window=fail)
