"""The models and windows of a run, selected by its partition keys and bounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from sim_pipeline.partition_keys import split_partition_key
from sim_pipeline.store.ledger import Span
from sim_pipeline.windows import Cadence


def days_and_models(partition_keys: Sequence[str]) -> tuple[list[date], tuple[str, ...]]:
    """Return the days, ascending, and the models, in order of appearance, of partition keys."""
    keys = [split_partition_key(key) for key in partition_keys]
    days = sorted({date.fromisoformat(day) for day, _ in keys})
    return days, tuple(dict.fromkeys(llm_name for _, llm_name in keys))


@dataclass(frozen=True)
class Selection:
    """The models and windows of a run.

    Attributes:
        llm_names: the models.
        windows: the window numbers, the same for each model.
        span: the same models and windows, by window start.
    """

    llm_names: tuple[str, ...]
    windows: range
    span: Span


def select(
    partition_keys: Sequence[str],
    cadence: Cadence,
    *,
    began: datetime,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Selection:
    """Return the ended windows of the partitions, between optional bounds.

    Args:
        partition_keys: keys of one run: all combinations of its days and models.
        cadence: the windows of the feed.
        began: when the run began; windows that end later are left out.
        since: earliest window start, inclusive; None for no bound.
        until: latest window start, exclusive; None for no bound.
    """
    days, llm_names = days_and_models(partition_keys)
    start = datetime.combine(days[0], time(), UTC)
    stop = datetime.combine(days[-1], time(), UTC) + timedelta(days=1)
    windows = cadence.windows_between(
        max(start, since) if since else start, min(stop, until) if until else stop
    )
    ended = range(windows.start, max(windows.start, min(windows.stop, cadence.window_at(began))))
    return Selection(
        llm_names,
        ended,
        Span(llm_names, cadence.start_of(ended.start), cadence.start_of(ended.stop)),
    )
