"""When an asset of the feed is late, and when nobody but a person will make up for it.

Dagster's daemon looks every half minute, at one record of each asset, and writes an event only
where the state changes. It looks at the latest materialization of any partition, so a backfill
over history counts as fresh as a scheduled run does.
"""

from datetime import timedelta

import dagster as dg

_MINUTE = timedelta(minutes=1)


def freshness(every: timedelta, catch_up: timedelta) -> dg.FreshnessPolicy:
    """Return the policy of what a schedule materializes so often.

    It warns once two runs in a row have not come: the next tick still makes up for them. It fails
    when the look back of a tick no longer reaches what was missed, so that the gap stays until
    someone backfills it.

    Args:
        every: from one run to the next when all is well; taken as a minute where it is less, since
            no schedule ticks more often.
        catch_up: how far back a tick looks.
    """
    every = max(every, _MINUTE)
    late = 2 * every + _MINUTE
    return dg.FreshnessPolicy.time_window(warn_window=late, fail_window=max(catch_up, late + every))
