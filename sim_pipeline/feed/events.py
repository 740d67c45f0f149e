"""The events of simulated windows: which to store, as what, and a table of them for the UI."""

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Final
from uuid import UUID, uuid5

import numpy as np
from numpy.typing import NDArray

from sim_pipeline.markdown import table
from sim_pipeline.simulator.events import Event
from sim_pipeline.store.batches import SimulatedEvent
from sim_pipeline.timestamps import format_timestamp
from sim_pipeline.windows import EPOCH

# Chosen once at random, so that our ids differ from those of every other user of UUIDv5.
_NAMESPACE: Final = UUID("e74b4770-dee3-4ab5-a6f8-eeaf4231033e")

_MAX_ROWS: Final = 20


def touching(events: Iterable[Event], windows: NDArray[np.int64], interval: int) -> Iterator[Event]:
    """Return the events that overlap one of the windows.

    Args:
        events: in any order.
        windows: window numbers, ascending, shape (windows,).
        interval: length of a window [s].
    """
    for event in events:
        first = int(np.searchsorted(windows, int(event.started_at // interval)))
        if first < len(windows):
            start = int(windows[first]) * interval
            if event.overlaps(start, start + interval):
                yield event


def simulated_event(llm_name: str, event: Event) -> SimulatedEvent:
    """Return an event as it is stored.

    Its id is the UUIDv5 of `llm_name|kind|start|end|size|metrics`. Model names contain no vertical
    bar, so different events give different texts.
    """
    started_at = EPOCH + timedelta(seconds=event.started_at)
    ended_at = None if event.ended_at is None else EPOCH + timedelta(seconds=event.ended_at)
    content = (
        llm_name,
        event.kind,
        format_timestamp(started_at, "microseconds"),
        format_timestamp(ended_at, "microseconds") if ended_at else "",
        repr(float(event.size)),
        ",".join(event.metrics),
    )
    return SimulatedEvent(
        uuid5(_NAMESPACE, "|".join(content)),
        llm_name,
        event.kind,
        started_at,
        ended_at,
        event.size,
        event.metrics,
    )


def events_table(events: Iterable[Event]) -> str:
    """Return a Markdown table of events, by start; of many, the first ones and how many follow."""
    ordered = sorted(events, key=lambda event: (event.started_at, event))
    if not ordered:
        return "none"
    rows = [
        (
            event.kind.replace("_", " "),
            _time(event.started_at),
            "" if event.ended_at is None else _time(event.ended_at),
            f"{event.size:.3g}",
        )
        for event in ordered[:_MAX_ROWS]
    ]
    text = table(("kind", "start", "end", "size"), "lllr", rows)
    more = len(ordered) - len(rows)
    return f"{text}\n\nand {more:,} more" if more else text


def _time(seconds: float) -> str:
    return format_timestamp(EPOCH + timedelta(seconds=seconds), "seconds")
