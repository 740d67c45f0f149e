"""When an asset of the feed is late, and when nobody but a person will make up for it.

Dagster's daemon looks every half minute, at one record of each asset, and writes an event only
where the state changes. It looks at the latest materialization of any partition, so a backfill
over history counts as fresh as a scheduled run does.
"""

from datetime import timedelta

import dagster as dg

from sim_pipeline.cadence import MINUTE, Cadence


def feed_freshness(cadence: Cadence, catch_up: timedelta) -> dg.FreshnessPolicy:
    """Return the policy of what each tick of the feed's schedule materializes.

    It warns once two runs in a row have not come: the next tick still makes up for them. It fails
    when the look back of a tick no longer reaches what was missed, so that the gap stays until
    someone backfills it.

    Args:
        cadence: the windows, one run for each that ends.
        catch_up: how far back a tick looks.
    """
    # A tick comes each minute at the most, whatever the interval.
    every = timedelta(seconds=max(cadence.interval, MINUTE))
    late = 2 * every + timedelta(seconds=MINUTE)
    return dg.FreshnessPolicy.time_window(warn_window=late, fail_window=max(catch_up, late + every))
