"""The partitions of the feed: one per model and UTC day."""

from collections.abc import Sequence

import dagster as dg

from sim_pipeline.windows import Cadence

# Dagster sorts dimensions by name, so a key reads "2026-11-24|GPT-4o".
DAY, MODEL = "day", "llm"


def build_partitions(llm_names: Sequence[str], cadence: Cadence) -> dg.MultiPartitionsDefinition:
    """Return the partitions: models by days, from the first window's day to today, included."""
    first_day = cadence.day_of(cadence.first_window)
    return dg.MultiPartitionsDefinition(
        {
            DAY: dg.DailyPartitionsDefinition(
                start_date=first_day.isoformat(), timezone="UTC", end_offset=1
            ),
            MODEL: dg.StaticPartitionsDefinition(list(llm_names)),
        }
    )
