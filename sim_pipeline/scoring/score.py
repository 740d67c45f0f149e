"""The rule that matches alarms with events, and the figures that follow from it.

docs/scoring.md explains the rule. Nothing here reads files or a database.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby, pairwise
from typing import Final

import numpy as np

from sim_pipeline.metrics import METRICS
from sim_pipeline.store.batches import SimulatedEvent

LATENCY_KINDS: Final = ("incident", "level_shift", "capacity")
"""The kinds that a detector of slow endpoints is meant to find: changes of the endpoint itself."""
HORIZON: Final = timedelta(hours=24)
"""How long an event without an end is news."""
SIZES: Final = {"small": 1.1, "medium": 1.3, "large": 2.0, "severe": math.inf}
"""Classes of an event's size, each with the factor, up or down, below which it ends."""
ANY_METRIC: Final = ""
"""The metric of an alarm that names none."""
MONTH: Final = timedelta(days=30)
_NOTHING: Final = timedelta(0)

Span = tuple[datetime, datetime]
"""A start and an end, both aware."""


@dataclass(frozen=True)
class Alarm:
    """An alarm of a detector.

    Attributes:
        llm_name: the model.
        metric: one of `METRICS`, or `ANY_METRIC`.
        time: when the detector raised it, aware.
    """

    llm_name: str
    metric: str
    time: datetime


@dataclass(frozen=True)
class Rule:
    """The choices of the rule.

    Attributes:
        grace: how long after an event an alarm is still about it.
        merge: alarms of a model and metric that are at most this far apart are one episode.
        kinds: of the events that the detector is meant to find.
        all_shifts: whether these include level shifts to a higher speed.
        horizon: how long an event without an end counts as active.
    """

    grace: timedelta
    merge: timedelta
    kinds: Sequence[str] = LATENCY_KINDS
    all_shifts: bool = False
    horizon: timedelta = HORIZON

    def wants(self, event: SimulatedEvent) -> bool:
        """Return whether the detector is meant to find the event."""
        improves = event.kind == "level_shift" and event.size > 1.0
        return event.kind in self.kinds and (self.all_shifts or not improves)

    def span(self, event: SimulatedEvent) -> Span:
        """Return the first and the last instant at which an alarm is about the event."""
        return event.started_at, (event.ended_at or event.started_at + self.horizon) + self.grace


@dataclass(frozen=True)
class Counts:
    """Numbers of alarms, or of episodes of alarms."""

    true: int
    false: int
    neither: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.true + self.false + self.neither

    @property
    def precision(self) -> float | None:
        """Share of the true ones in the true and false ones; None if there are none."""
        return _ratio(self.true, self.true + self.false)


@dataclass(frozen=True)
class Detections:
    """How many events were found.

    Attributes:
        events: their number.
        delays: time from the start of each event that was found to its first true alarm [h].
    """

    events: int
    delays: Sequence[float]

    @property
    def recall(self) -> float | None:
        """Share of the events that were found; None if there are none."""
        return _ratio(len(self.delays), self.events)

    def delay(self, percent: float) -> float | None:
        """Return a percentile of the delays [h]; None if no event was found."""
        return float(np.percentile(self.delays, percent)) if self.delays else None


@dataclass(frozen=True)
class Group:
    """The figures of all alarms, or of those of one model or metric.

    Attributes:
        alarms: each counts.
        episodes: consecutive alarms of the same model and metric count once.
        detections: of the events that these alarms could find.
        covered: length of the stored windows, summed over the models.
    """

    alarms: Counts
    episodes: Counts
    detections: Detections
    covered: timedelta

    def per_month(self, number: int) -> float | None:
        """Return a number per model and 30 days; None without stored windows."""
        return _ratio(number, self.covered / MONTH)


@dataclass(frozen=True)
class Score:
    """The figures of a detector.

    Attributes:
        overall: of all alarms and wanted events.
        kinds: by kind and size class; the size class "" is that of all sizes. Only those that
            occur.
        sizes: by size class, all kinds; only those that occur.
        metrics: by metric of the alarms, only those that occur. An event belongs to each metric
            that it moves, and only alarms of that metric find it.
        models: by model.
        left_out: alarms of models that are not scored, and those outside the scored windows.
        true_share: share of the time in which an alarm of any metric would be true.
        neither_share: share of the time in which it would be neither true nor false.
    """

    overall: Group
    kinds: Mapping[tuple[str, str], Detections]
    sizes: Mapping[str, Detections]
    metrics: Mapping[str, Group]
    models: Mapping[str, Group]
    left_out: int
    true_share: float
    neither_share: float


@dataclass(frozen=True)
class _Judged:
    """An alarm, and whether it is true (True), false (False) or neither (None)."""

    alarm: Alarm
    true: bool | None


@dataclass(frozen=True)
class _Sought:
    """An event to find, and the delay of the first true alarm by the alarm's metric [h]."""

    event: SimulatedEvent
    delays: Mapping[str, float]


def size_class(event: SimulatedEvent) -> str:
    """Return the event's class of `SIZES`. A share of failures counts by the share that is left."""
    size = 1.0 - event.size if event.kind == "failure_spell" else event.size
    factor = max(size, 1.0 / size) if size > 0.0 else math.inf
    return next((name for name, edge in SIZES.items() if factor < edge), "severe")


def score(
    alarms: Iterable[Alarm],
    events: Iterable[SimulatedEvent],
    covered: Mapping[str, Sequence[Span]],
    rule: Rule,
) -> Score:
    """Score alarms against events.

    Args:
        alarms: of any models, in any order. Those at times without stored windows are left out.
        events: all of the models of ``covered``, of all kinds, also those that began before.
        covered: when windows of each model are stored: spans in order that do not touch.
        rule: the choices of the rule.
    """
    alarms_of: dict[str, list[Alarm]] = {name: [] for name in covered}
    left_out = 0
    for alarm in sorted(alarms, key=lambda one: (one.time, one.metric)):
        if _alarm_is_covered(alarm, covered.get(alarm.llm_name, ())):
            alarms_of[alarm.llm_name].append(alarm)
        else:
            left_out += 1
    events_of: dict[str, list[SimulatedEvent]] = {name: [] for name in covered}
    for event in sorted(events, key=lambda one: one.started_at):
        events_of[event.llm_name].append(event)

    judged, sought = [], []
    judged_of, sought_of = {}, {}
    true_time = explained_time = _NOTHING
    lengths = {name: _length(spans) for name, spans in covered.items()}
    for name, spans in covered.items():
        judged_of[name], found = _match(alarms_of[name], events_of[name], rule)
        sought_of[name] = [one for one in found if _start_is_covered(one.event, spans)]
        judged += judged_of[name]
        sought += sought_of[name]
        wanted = [rule.span(event) for event in events_of[name] if rule.wants(event)]
        every = [rule.span(event) for event in events_of[name]]
        true_time += _common_length(wanted, spans)
        explained_time += _common_length(every, spans)
    total = sum(lengths.values(), _NOTHING)
    kinds = {
        (kind, size): detections
        for kind in rule.kinds
        for size in ("", *SIZES)
        if (detections := _detections(sought, kind=kind, size=size)).events
    }
    return Score(
        overall=_group(judged, sought, total, rule),
        kinds=kinds,
        sizes={
            size: detections
            for size in SIZES
            if (detections := _detections(sought, size=size)).events
        },
        metrics={
            metric: _group(of_metric, sought, total, rule, metric)
            for metric in (*METRICS, ANY_METRIC)
            if (of_metric := [one for one in judged if one.alarm.metric == metric])
        },
        models={
            name: _group(judged_of[name], sought_of[name], lengths[name], rule) for name in covered
        },
        left_out=left_out,
        true_share=true_time / total if total else 0.0,
        neither_share=(explained_time - true_time) / total if total else 0.0,
    )


def _match(
    alarms: Sequence[Alarm], events: Sequence[SimulatedEvent], rule: Rule
) -> tuple[list[_Judged], list[_Sought]]:
    """Judge a model's alarms, in order of time, and return the events to find."""
    times = [alarm.time for alarm in alarms]
    verdicts: list[bool | None] = [False] * len(alarms)
    sought = []
    for event in events:
        wanted = rule.wants(event)
        first, last = rule.span(event)
        delays: dict[str, float] = {}
        for place in range(bisect_left(times, first), bisect_right(times, last)):
            metric = alarms[place].metric
            if metric != ANY_METRIC and metric not in event.metrics:
                continue
            if wanted:
                verdicts[place] = True
                delays.setdefault(metric, (times[place] - first) / timedelta(hours=1))
            elif verdicts[place] is False:
                verdicts[place] = None
        if wanted:
            sought.append(_Sought(event, delays))
    return [_Judged(*one) for one in zip(alarms, verdicts, strict=True)], sought


def _group(
    judged: Sequence[_Judged],
    sought: Sequence[_Sought],
    covered: timedelta,
    rule: Rule,
    metric: str | None = None,
) -> Group:
    """Return the figures of alarms; ``metric`` is theirs if they all have the same."""
    return Group(
        alarms=_counts(one.true for one in judged),
        episodes=_counts(_episodes(judged, rule.merge)),
        detections=_detections(sought, metric=metric),
        covered=covered,
    )


def _counts(verdicts: Iterable[bool | None]) -> Counts:
    known = list(verdicts)
    return Counts(known.count(True), known.count(False), known.count(None))


def _episodes(judged: Sequence[_Judged], merge: timedelta) -> Iterator[bool | None]:
    """Yield the verdict of each episode: true if an alarm of it is, else false if one is."""

    def series(one: _Judged) -> tuple[str, str]:
        return one.alarm.llm_name, one.alarm.metric

    for _, same in groupby(sorted(judged, key=series), key=series):
        alarms = list(same)
        verdicts = {alarms[0].true}
        for before, one in pairwise(alarms):
            if one.alarm.time - before.alarm.time > merge:
                yield _verdict(verdicts)
                verdicts = set()
            verdicts.add(one.true)
        yield _verdict(verdicts)


def _verdict(verdicts: set[bool | None]) -> bool | None:
    return True if True in verdicts else False if False in verdicts else None


def _detections(
    sought: Iterable[_Sought], *, kind: str = "", size: str = "", metric: str | None = None
) -> Detections:
    """Return how many events were found; "" is any kind or size, None is any alarm."""
    chosen = [
        one
        for one in sought
        if kind in ("", one.event.kind)
        and size in ("", size_class(one.event))
        and (metric in (None, ANY_METRIC) or metric in one.event.metrics)
    ]
    delays = [
        min(one.delays.values()) if metric is None else one.delays[metric]
        for one in chosen
        if (one.delays if metric is None else metric in one.delays)
    ]
    return Detections(len(chosen), delays)


def _alarm_is_covered(alarm: Alarm, spans: Sequence[Span]) -> bool:
    """Return whether a window ends or is in progress at the alarm: it is raised after the start."""
    place = bisect_left(spans, alarm.time, key=lambda span: span[0]) - 1
    return place >= 0 and alarm.time <= spans[place][1]


def _start_is_covered(event: SimulatedEvent, spans: Sequence[Span]) -> bool:
    place = bisect_right(spans, event.started_at, key=lambda span: span[0]) - 1
    return place >= 0 and event.started_at < spans[place][1]


def _length(spans: Iterable[Span]) -> timedelta:
    """Return the length of the union of spans."""
    total = _NOTHING
    reached: datetime | None = None
    for start, end in sorted(spans):
        begin = start if reached is None else max(start, reached)
        if end > begin:
            total += end - begin
            reached = end
    return total


def _common_length(some: Sequence[Span], others: Sequence[Span]) -> timedelta:
    """Return the length of what two unions of spans have in common."""
    return _length(some) + _length(others) - _length([*some, *others])


def _ratio(number: float, of: float) -> float | None:
    return number / of if of else None
