"""The freshness policy of the feed's assets.

Dagster's daemon evaluates it every 30 seconds from one record of each asset, and writes an event
only when the state changes. The latest materialization of any partition counts, so a backfill over
history makes an asset as fresh as a scheduled run does.
"""

from datetime import timedelta

import dagster as dg

_MINUTE = timedelta(minutes=1)


def freshness(every: timedelta, catch_up: timedelta) -> dg.FreshnessPolicy:
    """Return the freshness policy of an asset that a schedule materializes.

    The policy warns after two missed runs in a row; the next tick still repairs them. It fails when
    the missed windows are too old for a tick to repair, so that only a backfill closes the gap.

    Args:
        every: time between two scheduled runs. At least a minute is used, because no schedule ticks
            more often.
        catch_up: how far back a tick repairs missing windows.
    """
    every = max(every, _MINUTE)
    late = 2 * every + _MINUTE
    return dg.FreshnessPolicy.time_window(warn_window=late, fail_window=max(catch_up, late + every))
