"""The rule of scoring: known events and alarms give figures that are computed by hand."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from sim_pipeline.metrics import EVENT_KINDS, METRICS
from sim_pipeline.scoring.score import (
    ANY_METRIC,
    Alarm,
    Counts,
    Rule,
    Score,
    Span,
    score,
    size_class,
)
from sim_pipeline.store.batches import SimulatedEvent

START = datetime(2026, 11, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
MONTH = 30 * 24.0
RULE = Rule(grace=2 * HOUR, merge=2 * HOUR)
LATENCY = ("TTFT", "TPS", "e2e_latency")


def at(hours: float) -> datetime:
    return START + hours * HOUR


def event(
    start: float,
    end: float | None,
    *,
    kind: str = "incident",
    size: float = 0.5,
    metrics: tuple[str, ...] = LATENCY,
    model: str = "A",
) -> SimulatedEvent:
    """Return an event; times are in hours since `START`."""
    ended = None if end is None else at(end)
    return SimulatedEvent(uuid4(), model, kind, at(start), ended, size, metrics)


def alarms(*hours: float, metric: str = "TPS", model: str = "A") -> list[Alarm]:
    return [Alarm(model, metric, at(one)) for one in hours]


def scored(
    raised: Sequence[Alarm],
    events: Sequence[SimulatedEvent],
    covered: dict[str, list[Span]] | None = None,
    rule: Rule = RULE,
) -> Score:
    return score(raised, events, covered or {"A": [(at(0), at(MONTH))]}, rule)


def counts(
    raised: Sequence[Alarm], events: Sequence[SimulatedEvent], rule: Rule = RULE
) -> tuple[int, int, int]:
    found = scored(raised, events, rule=rule).overall.alarms
    return found.true, found.false, found.neither


def test_known_events_and_alarms_give_known_figures() -> None:
    events = [
        event(10, 12, size=0.3),
        event(100, 101, size=0.7),
        event(200, None, kind="level_shift", size=0.9),
        event(300, 340, kind="capacity", size=0.7),
        event(400, 401, kind="burst", size=2.0),
        event(10, 12, model="B"),
    ]
    raised = [
        *alarms(11, 12, 13),  # true, one episode
        *alarms(11.5, metric="TTFT"),  # true, an episode of its own
        *alarms(203, 220),  # true, two episodes
        *alarms(306, metric="e2e_latency"),  # true
        *alarms(400.5),  # neither
        *alarms(500, 501, 600),  # false, two episodes
        *alarms(50, model="B"),  # false
    ]
    covered = {"A": [(at(0), at(MONTH))], "B": [(at(0), at(MONTH / 2))]}
    found = scored(raised, events, covered)

    overall = found.overall
    assert overall.alarms == Counts(true=7, false=4, neither=1)
    assert overall.alarms.total == len(raised)
    assert overall.alarms.precision == pytest.approx(7 / 11)
    assert overall.episodes == Counts(true=5, false=3, neither=1)
    assert overall.covered == 45 * 24 * HOUR
    assert overall.per_month(overall.alarms.false) == pytest.approx(4 / 1.5)

    assert overall.detections.events == 5
    assert sorted(overall.detections.delays) == pytest.approx([1, 3, 6])
    assert overall.detections.recall == pytest.approx(0.6)
    assert overall.detections.delay(50) == pytest.approx(3)
    assert overall.detections.delay(90) == pytest.approx(5.4)
    assert {key: (one.events, len(one.delays)) for key, one in found.kinds.items()} == {
        ("incident", ""): (3, 1),
        ("incident", "large"): (1, 0),
        ("incident", "severe"): (2, 1),
        ("level_shift", ""): (1, 1),
        ("level_shift", "medium"): (1, 1),
        ("capacity", ""): (1, 1),
        ("capacity", "large"): (1, 1),
    }
    assert {key: (one.events, len(one.delays)) for key, one in found.sizes.items()} == {
        "medium": (1, 1),
        "large": (2, 1),
        "severe": (2, 1),
    }

    assert list(found.metrics) == list(LATENCY)
    tps = found.metrics["TPS"]
    assert tps.alarms == Counts(true=5, false=4, neither=1)
    assert (tps.detections.events, sorted(tps.detections.delays)) == (5, [1, 3])
    assert found.metrics["TTFT"].detections.delays == [1.5]
    assert tps.per_month(tps.alarms.false) == pytest.approx(4 / 1.5)

    assert found.models["A"].alarms == Counts(7, 3, 1)
    assert found.models["A"].detections.recall == pytest.approx(0.75)
    model_b = found.models["B"]
    assert model_b.alarms.precision == 0
    assert model_b.per_month(model_b.alarms.false) == pytest.approx(2)
    assert model_b.detections.recall == 0
    assert model_b.detections.delay(50) is None
    # Of 1080 h: 4 + 3 + 26 + 42 h of A, 4 h of B; the burst 3 h.
    assert found.true_share == pytest.approx(79 / 1080)
    assert found.neither_share == pytest.approx(3 / 1080)


@pytest.mark.parametrize(
    ("hour", "expected"),
    [(9.99, (0, 1, 0)), (10, (1, 0, 0)), (12, (1, 0, 0)), (14, (1, 0, 0)), (14.01, (0, 1, 0))],
)
def test_alarm_is_true_from_the_start_to_the_end_of_grace(
    hour: float, expected: tuple[int, int, int]
) -> None:
    assert counts(alarms(hour), [event(10, 12)]) == expected


@pytest.mark.parametrize(("hour", "true"), [(20, 1), (46, 1), (46.01, 0)])
def test_event_without_end_is_active_for_the_horizon(hour: float, true: int) -> None:
    assert counts(alarms(hour), [event(20, None, kind="level_shift")])[0] == true
    longer = replace(RULE, horizon=25 * HOUR)
    assert counts(alarms(hour), [event(20, None, kind="level_shift")], longer)[0] == 1


@pytest.mark.parametrize("metric", METRICS)
def test_alarm_must_be_of_a_metric_that_the_event_moves(metric: str) -> None:
    moves = metric in LATENCY
    assert counts(alarms(11, metric=metric), [event(10, 12)]) == (int(moves), int(not moves), 0)


def test_alarm_without_metric_is_of_any() -> None:
    found = scored(alarms(11, metric=ANY_METRIC), [event(10, 12, metrics=("RPS",))])
    assert found.overall.alarms == Counts(1, 0, 0)
    assert list(found.metrics) == [ANY_METRIC]
    assert found.metrics[ANY_METRIC].detections.delays == [1]


def test_metric_is_only_responsible_for_events_that_move_it() -> None:
    events = [event(10, 12, metrics=("TTFT",)), event(20, 22, metrics=("TTFT", "TPS"))]
    found = scored([*alarms(11, metric="TTFT"), *alarms(21)], events)
    assert found.overall.detections.recall == 1
    assert found.metrics["TTFT"].detections.recall == 0.5
    assert found.metrics["TPS"].detections.events == 1


@pytest.mark.parametrize("kind", EVENT_KINDS)
def test_alarm_of_another_kind_is_neither(kind: str) -> None:
    wanted = kind in ("incident", "level_shift", "capacity")
    one = event(10, 12, kind=kind)
    assert counts(alarms(11), [one]) == (int(wanted), 0, int(not wanted))
    assert counts(alarms(11), [one], replace(RULE, kinds=(kind,))) == (1, 0, 0)


@pytest.mark.parametrize("order", [1, -1])
def test_true_wins_over_neither(order: int) -> None:
    events = [event(10, 12), event(9, 20, kind="burst"), event(11, 12, kind="burst")]
    assert counts(alarms(11.5), events[::order]) == (1, 0, 0)


def test_improvement_is_neither_unless_all_shifts_are_wanted() -> None:
    better = event(10, None, kind="level_shift", size=1.2)
    found = scored(alarms(11), [better])
    assert (found.overall.alarms, found.overall.detections.events) == (Counts(0, 0, 1), 0)
    found = scored(alarms(11), [better], rule=replace(RULE, all_shifts=True))
    assert (found.overall.alarms, found.overall.detections.events) == (Counts(1, 0, 0), 1)


def test_alarm_of_another_model_is_false() -> None:
    covered = {name: [(at(0), at(MONTH))] for name in "AB"}
    found = scored(alarms(11, model="B"), [event(10, 12)], covered)
    assert found.overall.alarms == Counts(0, 1, 0)
    assert found.overall.detections.recall == 0


def test_one_alarm_detects_all_events_at_its_time() -> None:
    found = scored(alarms(11), [event(10, 12), event(9, 11, kind="capacity")])
    assert found.overall.alarms == Counts(1, 0, 0)
    assert sorted(found.overall.detections.delays) == [1, 2]


@pytest.mark.parametrize(("gap", "episodes"), [(2, 1), (2.01, 2)])
def test_alarms_close_to_each_other_are_an_episode(gap: float, episodes: int) -> None:
    found = scored(alarms(50, 50 + gap), []).overall
    assert (found.alarms.false, found.episodes.false) == (2, episodes)


@pytest.mark.parametrize(
    ("hours", "expected"),
    [
        ((9, 11), Counts(1, 0, 0)),  # false, true
        ((29, 31), Counts(0, 1, 0)),  # false, neither
        ((31, 32), Counts(0, 0, 1)),  # neither, neither
        ((31, 29), Counts(0, 1, 0)),  # in any order
    ],
)
def test_episode_is_true_if_an_alarm_is_else_false(
    hours: tuple[float, ...], expected: Counts
) -> None:
    events = [event(10, 12), event(30, 32, kind="burst")]
    assert scored(alarms(*hours), events).overall.episodes == expected


def test_alarm_belongs_to_the_window_that_ends() -> None:
    covered = {"A": [(at(10), at(20)), (at(30), at(40))]}
    raised = alarms(10, 10.1, 20, 20.1, 30, 30.1, 40, 40.1)
    found = scored(raised, [], covered)
    assert (found.overall.alarms.false, found.left_out) == (4, 4)


def test_alarm_of_a_model_that_is_not_scored_is_left_out() -> None:
    assert scored(alarms(11, model="B"), []).left_out == 1


@pytest.mark.parametrize(
    ("start", "events"), [(9, 0), (10, 1), (19.9, 1), (20, 0), (25, 0), (30, 1)]
)
def test_event_counts_if_its_start_is_in_a_stored_window(start: float, events: int) -> None:
    covered = {"A": [(at(10), at(20)), (at(30), at(40))]}
    found = scored(alarms(31), [event(start, 32)], covered)
    assert found.overall.detections.events == events
    # It explains an alarm in any case.
    assert found.overall.alarms == Counts(1, 0, 0)


def test_nothing_gives_no_figures() -> None:
    found = scored([], [])
    assert found.overall.alarms.precision is None
    assert found.overall.detections.recall is None
    assert found.overall.detections.delay(90) is None
    assert (found.kinds, found.sizes, found.metrics) == ({}, {}, {})
    assert found.overall.per_month(0) == 0
    empty = scored([], [], {"A": []})
    assert empty.overall.per_month(0) is None
    assert (empty.true_share, empty.neither_share) == (0, 0)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1.0, "small"),
        (0.92, "small"),
        (1.08, "small"),
        (0.9, "medium"),
        (1.25, "medium"),
        (0.75, "large"),
        (1.9, "large"),
        (0.5, "severe"),
        (2.5, "severe"),
        (0.0, "severe"),
    ],
)
def test_size_class_is_of_the_factor_up_or_down(size: float, expected: str) -> None:
    assert size_class(event(10, 12, size=size)) == expected
    if size <= 1:
        spell = event(10, 12, kind="failure_spell", size=1.0 - size, metrics=())
        assert size_class(spell) == expected
