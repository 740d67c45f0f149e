"""Renders a report as one HTML file. It needs no script and requests nothing."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from sim_pipeline.comparison.charts import history_image, ranges_image
from sim_pipeline.comparison.ranking import Comparison
from sim_pipeline.metrics import EVENT_KINDS, METRICS, UNITS
from sim_pipeline.report.contents import Contents
from sim_pipeline.store.batches import SimulatedEvent
from sim_pipeline.timestamps import format_duration

LISTED_EVENTS: Final = 60
"""Largest number of events that a report lists."""

_LISTED_KINDS = ("incident", "level_shift", "capacity", "release", "retirement")
_MEANINGS = {
    "incident": "part of the capacity is lost for a while",
    "level_shift": "the speed changes for good",
    "capacity": "the endpoint has little capacity for hours or days",
    "burst": "far more requests than usual arrive",
    "failure_spell": "a share of the requests fails for a while",
    "release": "the model enters full service",
    "retirement": "the model leaves service",
}
_WHOLE = 100.0
_NOTHING = "-"


@dataclass(frozen=True)
class Leader:
    """The best models of a metric.

    Attributes:
        metric: the metric.
        unit: its unit.
        best: the models that share rank 1.
    """

    metric: str
    unit: str
    best: Sequence[Comparison]


@dataclass(frozen=True)
class KindCount:
    """The events of a kind.

    Attributes:
        kind: the kind, as people write it.
        meaning: what happens.
        count: number of events.
        models: number of models that have one.
    """

    kind: str
    meaning: str
    count: int
    models: int


def render(contents: Contents, now: datetime) -> str:
    """Return the report as HTML.

    Args:
        contents: what it shows.
        now: time of writing, shown in the report.
    """
    listed = [event for event in contents.events if event.kind in _LISTED_KINDS]
    expected = contents.windows * len(contents.totals)
    stored = sum(one.stored for one in contents.totals)
    published = sum(one.published for one in contents.totals)
    return _template().render(
        contents=contents,
        now=now,
        metrics=METRICS,
        units=UNITS,
        leaders=[_leader(contents.ranking, metric) for metric in METRICS],
        kinds=list(_kind_counts(contents.events)),
        listed=listed[-LISTED_EVENTS:],
        unlisted=max(0, len(listed) - LISTED_EVENTS),
        expected=expected,
        stored=stored,
        published=published,
        ranges=ranges_image(contents.ranking, contents.hours),
        history=history_image(contents.history, contents.marked),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("sim_pipeline.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "percent": _percent,
        "time": _time,
        "duration": format_duration,
        "spaced": _spaced,
        "effect": _effect,
    }
    return environment.get_template("page.html.jinja")


def _leader(ranking: Sequence[Comparison], metric: str) -> Leader:
    # A model with too few values for an interval also has rank 1: no other is surely better.
    best = [
        one for one in ranking if one.metric == metric and one.rank == 1 and one.p50_low is not None
    ]
    return Leader(metric, UNITS[metric], best)


def _kind_counts(events: Iterable[SimulatedEvent]) -> Iterable[KindCount]:
    events = list(events)
    counts = Counter(event.kind for event in events)
    for kind in EVENT_KINDS:
        models = {event.llm_name for event in events if event.kind == kind}
        yield KindCount(_spaced(kind), _MEANINGS[kind], counts[kind], len(models))


def _number(value: float | None) -> str:
    """Return a number with three digits; a dash for None and NaN."""
    if value is None or math.isnan(value):
        return _NOTHING
    return f"{value:,.0f}" if abs(value) >= _WHOLE else f"{value:.3g}"


def _percent(share: float | None, digits: int = 1) -> str:
    return _NOTHING if share is None else f"{share:.{digits}%}"


def _time(moment: datetime | None) -> str:
    return _NOTHING if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def _spaced(kind: str) -> str:
    return kind.replace("_", " ")


def _effect(event: SimulatedEvent) -> str:
    """Return what an event does, in a few words."""
    match event.kind:
        case "incident":
            return f"{event.size:.0%} of the capacity left"
        case "level_shift":
            return f"{event.size - 1:+.0%} speed, for good"
        case "capacity":
            return f"down to {event.size:.0%} of the usual capacity"
        case "burst":
            return f"up to {event.size:.1f} times the usual demand"
        case "failure_spell":
            return f"{event.size:.1%} of the requests fail"
        case _:
            return f"demand times {event.size:.2g}"
