"""The windows that a run is for: from its partition keys and scope to models and window numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from sim_pipeline.store.ledger import Span
from sim_pipeline.windows import Cadence


def days_and_models(partition_keys: Sequence[str]) -> tuple[list[date], tuple[str, ...]]:
    """Return the days, ascending, and the models, as they come, of the keys of one run."""
    keys = [key.split("|", 1) for key in partition_keys]
    days = sorted({date.fromisoformat(day) for day, _ in keys})
    return days, tuple(dict.fromkeys(llm_name for _, llm_name in keys))


@dataclass(frozen=True)
class Selection:
    """The windows that a run is for.

    Attributes:
        llm_names: the models.
        windows: the window numbers, the same for each model.
        span: the same in terms of labels.
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
    """Return the windows that partitions stand for.

    Args:
        partition_keys: of one run, thus a rectangle of days and models.
        cadence: the windows of the feed.
        began: when the run began; a window that ends later is left out.
        since: the first label to take; None for all.
        until: the first label no longer to take; None for all.
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
