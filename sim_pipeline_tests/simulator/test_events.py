"""Events: the same in any range, and in agreement with the simulated numbers."""

import hashlib
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import date

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim_pipeline.config import DEFAULT_MODELS
from sim_pipeline.metrics import EVENT_KINDS, METRICS
from sim_pipeline.simulator import events
from sim_pipeline.simulator.arguments import MAX_EPOCH_SECONDS
from sim_pipeline.simulator.capacity import YEAR, own_capacity, shifts, speed
from sim_pipeline.simulator.catalogue import MODELS, profile_for
from sim_pipeline.simulator.demand import DAY, DECLINE, GROWTH, TRICKLE, bursts, midnight
from sim_pipeline.simulator.events import (
    GRID,
    HIGH_DEMAND,
    LOW_CAPACITY,
    SHIFT,
    Event,
    events_between,
)
from sim_pipeline.simulator.profiles import Incident, Profile, Workload
from sim_pipeline.simulator.simulation import simulate
from sim_pipeline_tests.simulator.laws import HOUR, MONDAY, STEADY, steady

START = float(MONDAY * HOUR)
SPAN = 100 * DAY
# Every kind of event occurs often; incidents and spells of failures overlap.
BUSY = replace(
    MODELS["GPT-4o"],
    released=date(2026, 1, 20),
    retired=date(2026, 3, 20),
    incidents=(
        Incident(START + 5 * DAY + 17.5, START + 45 * DAY, 0.8),
        Incident(START + 6 * DAY, START + 6 * DAY + 1.0, 0.5),
    ),
    capacity_sd=0.3,
    shifts_per_year=50.0,
    spells_per_month=300.0,
    workload=Workload(burst_sd=0.5, heavy_share=0.5),
)
MINUTE = 60

Array = npt.NDArray[np.float64]


def found(profile: Profile, first: float = START, last: float = START + SPAN) -> list[Event]:
    """Return the events at seed 1."""
    return events_between(profile, first, last, seed=1)


def of_kind(kind: str, profile: Profile, days: float) -> list[Event]:
    """Return the events of one kind that lie in the first days, at seed 1."""
    last = START + days * DAY
    return [
        event
        for event in found(profile, START, last)
        if event.kind == kind and event.started_at >= START and (event.ended_at or 0.0) <= last
    ]


def overlapping(known: Sequence[Event], first: float, last: float) -> list[Event]:
    return [
        event
        for event in known
        if (
            first <= event.started_at < last
            if event.ended_at is None
            else event.started_at < last and event.ended_at > first
        )
    ]


def minutes_of(event: Event) -> npt.NDArray[np.int64]:
    """Return the numbers of the minutes that lie in the event."""
    assert event.ended_at is not None
    return np.arange(math.ceil(event.started_at / MINUTE), int(event.ended_at // MINUTE))


def test_range_has_every_kind() -> None:
    kinds = Counter(event.kind for event in found(BUSY))
    assert set(kinds) == set(EVENT_KINDS)
    assert min(kinds[kind] for kind in ("level_shift", "capacity", "burst", "failure_spell")) > 5


@pytest.mark.parametrize("profile", [BUSY, MODELS["Llama-3.1-70B"]], ids=["busy", "default"])
@pytest.mark.parametrize(
    ("length", "count"), [(MINUTE, 200), (HOUR, 200), (DAY, 120), (7.3 * DAY, 25)]
)
def test_windows_have_the_events_of_the_year(profile: Profile, length: float, count: int) -> None:
    year = found(profile, START, START + YEAR + 10 * DAY)
    starts = [START + 3.7 * DAY + length * number for number in range(count)]
    for window in (starts, starts[::-1]):
        for first in window:
            assert found(profile, first, first + length) == overlapping(year, first, first + length)


def test_any_range_has_the_events_that_overlap_it() -> None:
    known = found(BUSY, START, START + SPAN)
    instants = st.floats(0.0, SPAN - 1.0)

    @given(instants, st.floats(1e-3, 3.0) | st.floats(1e-3, SPAN))
    @settings(max_examples=100, derandomize=True, deadline=None)
    def any_range(begin: float, length: float) -> None:
        first = START + begin
        last = min(first + length, START + SPAN)
        assert found(BUSY, first, last) == overlapping(known, first, last)

    any_range()


def test_event_is_found_at_its_first_and_last_instant_only() -> None:
    for event in found(BUSY)[::7]:
        start, end = event.started_at, event.ended_at
        after = np.nextafter(start, np.inf)
        assert event in found(BUSY, start, after)
        assert event not in found(BUSY, start - 0.5, start)
        if end is None:
            assert event not in found(BUSY, after, start + 1.0)
        else:
            assert event in found(BUSY, np.nextafter(end, 0.0), end)
            assert event not in found(BUSY, end, end + 0.5)


def test_length_of_a_piece_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = found(BUSY, START, START + 20 * DAY)
    monkeypatch.setattr(events, "_PIECE", 0.3 * DAY)
    assert found(BUSY, START, START + 20 * DAY) == whole
    monkeypatch.setattr(events, "_STEP", 1)
    assert found(BUSY, START, START + 20 * DAY) == whole


def test_events_are_sorted_and_unique() -> None:
    known = found(replace(BUSY, incidents=BUSY.incidents * 2))
    starts = [event.started_at for event in known]
    assert starts == sorted(starts)
    assert len(set(known)) == len(known)


def test_events_are_same_in_other_process() -> None:
    program = """
import hashlib
from sim_pipeline.simulator.catalogue import profile_for
from sim_pipeline.simulator.events import events_between
found = [events_between(profile_for("Qwen-2.5"), 1.7e9 + day * 86400, 1.7e9 + (day + 1) * 86400,
                        seed=7) for day in range(99, -1, -1)]
found = sorted(set(sum(found, [])))
print(hashlib.sha256(repr(found).encode()).hexdigest())
"""
    output = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONHASHSEED": "3"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    known = sorted(events_between(profile_for("Qwen-2.5"), 1.7e9, 1.7e9 + 100 * DAY, seed=7))
    assert len(known) > 50
    assert output == hashlib.sha256(repr(known).encode()).hexdigest()


def test_seed_and_model_change_events() -> None:
    profiles = [replace(MODELS["GPT-4o"], name=name, creator="") for name in ("m", "n")]
    known = [
        set(events_between(profile, START, START + SPAN, seed=seed))
        for seed in (1, 2)
        for profile in profiles
    ]
    assert len(set.union(*known)) == sum(map(len, known))


def test_profile_without_processes_has_no_events() -> None:
    assert found(steady(MODELS["GPT-4o"], 0.4), 0.0, START + SPAN) == []
    full = (Incident(START, START + HOUR, 1.0),)
    assert found(steady(MODELS["GPT-4o"], 0.4, incidents=full)) == []


@pytest.mark.parametrize(
    ("first", "last"),
    [(-1.0, 5.0), (6.0, 5.0), (0.0, MAX_EPOCH_SECONDS + 1), (0.0, math.nan), (math.inf, math.inf)],
)
def test_invalid_range_is_refused(first: float, last: float) -> None:
    with pytest.raises(ValueError, match=r"^first is .* and last is .*, but must be 0 <= first"):
        found(BUSY, first, last)


def test_rates_of_default_models() -> None:
    """docs/simulator.md has these rates."""
    months = 12 * YEAR / (30 * DAY)
    kinds = Counter(
        event.kind
        for name in DEFAULT_MODELS
        for event in events_between(profile_for(name), START, START + YEAR, seed=42)
    )
    per_month = {kind: count / months for kind, count in kinds.items()}
    assert per_month == {
        "incident": pytest.approx(1.5, abs=0.1),
        "level_shift": pytest.approx(0.5, abs=0.1),
        "capacity": pytest.approx(2.1, abs=0.3),
        "burst": pytest.approx(10.0, abs=0.5),
        "failure_spell": pytest.approx(15.0, abs=0.1),
    }


@pytest.mark.parametrize("elasticity", [0.0, 0.25])
def test_events_name_the_metrics_that_they_move(elasticity: float) -> None:
    of_requests = ("TTFT", "TPS", "e2e_latency")
    of_demand = METRICS if elasticity else ("RPS",)
    known = found(replace(BUSY, elasticity=elasticity))
    assert {(event.kind, event.metrics) for event in known} == {
        ("incident", METRICS),
        ("level_shift", of_requests),
        ("capacity", of_requests),
        ("burst", of_demand),
        ("failure_spell", ("RPS",)),
        ("release", of_demand),
        ("retirement", of_demand),
    }


def test_level_shifts_are_the_jumps_of_speed() -> None:
    profile = replace(MODELS["GPT-4o"], shifts_per_year=50.0, shift_sd=0.04, creator_share=0.5)
    known = of_kind("level_shift", profile, 2_000)
    jumps = shifts(profile, START, START + 2_000 * DAY, seed=1)
    assert 50 < len(known) < len(jumps)
    sizes = {event.started_at: event.size for event in known}
    for time, factor in jumps:
        around = np.array([np.nextafter(time, 0.0), time])
        before, after = speed(profile, around, seed=1)
        assert after / before == pytest.approx(factor, rel=1e-9)
        if max(factor, 1.0 / factor) >= SHIFT:
            assert sizes.pop(time) == pytest.approx(factor, abs=1e-6)
    assert not sizes
    hourly = np.arange(START, START + 2_000 * DAY, HOUR)
    changes = np.count_nonzero(np.diff(speed(profile, hourly, seed=1)))
    assert changes == pytest.approx(len(jumps), abs=3)


def test_level_shift_shows_in_requests() -> None:
    profile = steady(MODELS["GPT-4o"], 0.4, shifts_per_year=12.0, shift_sd=0.3)
    jumps = sorted(time for time, _ in shifts(profile, 0.0, START + YEAR, seed=1))
    shown = 0
    for event in of_kind("level_shift", profile, 300):
        hour = math.ceil(event.started_at / HOUR)
        between = [time for time in jumps if abs(time - event.started_at) < 51 * HOUR]
        if len(between) > 1:
            continue
        before, after = (
            simulate(profile, hour + hours, interval=HOUR, points=50, seed=1)
            for hours in (np.arange(-50, -1), np.arange(50))
        )
        # 2,500 requests on either side: a standard error of 0.6 % for TPS, and of 2 % for others.
        tps = np.median(after.tps) / np.median(before.tps)
        assert tps == pytest.approx(event.size, rel=0.03)
        for metric in ("ttft", "e2e_latency"):
            moved = np.median(getattr(after, metric)) / np.median(getattr(before, metric))
            assert moved == pytest.approx(1.0 / event.size, rel=0.1)
        assert after.rps.mean() == pytest.approx(before.rps.mean(), rel=0.01)
        shown += 1
    assert shown >= 5


def test_level_shifts_show_beside_all_other_processes() -> None:
    profile = replace(MODELS["DeepSeek-V3"], shifts_per_year=4.0)
    weeks = 4 * 7 * 24
    jumps = [time for time, _ in shifts(profile, 0.0, START + 4_000 * DAY, seed=1)]
    alone = [
        event
        for event in of_kind("level_shift", profile, 2_000)
        if sum(abs(time - event.started_at) <= (weeks + 2) * HOUR for time in jumps) == 1
    ]
    assert len(alone) > 10
    logs = []
    for event in alone:
        hour = math.ceil(event.started_at / HOUR)
        before, after = (
            np.median(simulate(profile, hour + hours, interval=HOUR, points=5, seed=1).tps)
            for hours in (np.arange(-weeks, -1), np.arange(weeks))
        )
        logs.append((math.log(event.size), math.log(after / before)))
    sizes, shown = np.array(logs).T
    # The slow factor of capacity changes the utilisation of four weeks, and TPS by 4 to 5 %.
    error = 0.05 / math.sqrt(len(alone))
    assert (shown - sizes).mean() == pytest.approx(0.0, abs=5.0 * error)
    assert (shown - sizes).std() < 0.07
    assert np.corrcoef(sizes, shown)[0, 1] > 0.9


def test_incident_shows_in_utilisation() -> None:
    given = (Incident(START + 400.5 * DAY, START + 400.6 * DAY, 0.5),)
    profile = steady(MODELS["GPT-4o"], 0.25, random_incidents=True, incidents=given)
    known = of_kind("incident", profile, 500)
    assert len(known) > 15
    assert given[0].start in {event.started_at for event in known}
    for event in known:
        minutes = minutes_of(event)
        during = simulate(profile, minutes, interval=MINUTE, points=1, seed=1)
        assert during.utilisation == pytest.approx(0.25 / event.size)
        around = np.array([minutes[0] - 2, minutes[-1] + 2])
        usual = simulate(profile, around, interval=MINUTE, points=1, seed=1)
        assert usual.utilisation == pytest.approx(0.25)


def test_capacity_shows_in_utilisation() -> None:
    profile = steady(MODELS["GPT-4o"], 0.25, capacity_sd=0.14)
    known = of_kind("capacity", profile, 400)
    assert len(known) > 10
    for event in known:
        minutes = minutes_of(event)
        around = np.array([minutes[0] - 2, minutes[-1] + 2])
        usual = simulate(profile, around, interval=MINUTE, points=1, seed=1)
        assert (usual.utilisation < 0.25 / LOW_CAPACITY).all()
        during = simulate(profile, minutes, interval=MINUTE, points=1, seed=1)
        assert during.utilisation.min() > 0.25 / LOW_CAPACITY * (1.0 - 1e-4)
        assert during.utilisation.max() == pytest.approx(0.25 / event.size, rel=0.01)


def test_failure_spell_shows_in_failed_counts() -> None:
    # More spells than by default, so that some end at the start of the next.
    profile = steady(
        MODELS["GPT-4o"], 0.4, failure_rate=0.1, spells_per_month=300.0, spell_failures=0.3
    )
    known = of_kind("failure_spell", profile, 30)
    assert len(known) > 250
    sizes = np.array([event.size for event in known])
    # One reason fails at most a third of the requests, of which 0.1 / 3 fail at any time.
    assert sizes.max() == pytest.approx(0.3)
    deviations = []
    for event in known:
        minutes = minutes_of(event)
        if not minutes.size:
            continue
        during = simulate(profile, minutes, interval=MINUTE, points=1, seed=1)
        failed, completed = during.failed.sum(), during.completed.sum()
        expected = 0.1 + event.size
        share = failed / (failed + completed)
        error = math.sqrt(expected / (failed + completed))
        deviations.append((share - expected) / error)
    assert np.abs(deviations).max() < 5.0
    assert abs(np.mean(deviations)) < 5.0 / math.sqrt(len(deviations))


def test_no_further_requests_fail_between_failure_spells() -> None:
    profile = steady(MODELS["GPT-4o"], 0.4, spells_per_month=60.0, failure_rate=0.01)
    known = found(profile, START, START + 30 * DAY)
    between = [
        minute
        for minute in range(int(START) // MINUTE, int(START + 30 * DAY) // MINUTE)
        if not overlapping(known, minute * MINUTE, (minute + 1) * MINUTE)
    ]
    quiet = simulate(profile, between, interval=MINUTE, points=1, seed=1)
    share = quiet.failed.sum() / (quiet.failed.sum() + quiet.completed.sum())
    assert share == pytest.approx(0.01, rel=0.03)


@pytest.mark.parametrize(
    "workload",
    [
        replace(STEADY, burst_sd=0.22, heavy_share=0.15),
        replace(STEADY, burst_sd=0.4),
        replace(STEADY, heavy_share=0.6, heavy_clients=2),
    ],
    ids=["both", "bursts", "heavy clients"],
)
def test_burst_shows_in_completed_counts(workload: Workload) -> None:
    profile = steady(MODELS["GPT-4o"], 0.1, workload=workload, failure_rate=0.0)
    per_minute = 0.1 * profile.cap * MINUTE
    known = of_kind("burst", profile, 60)
    assert len(known) > 10
    inside, outside, expected = [], [], []
    for event in known:
        minutes = minutes_of(event)
        if minutes.size < 5:
            continue
        around = np.array([minutes[0] - 2, minutes[-1] + 2])
        during, usual = (
            simulate(profile, numbers, interval=MINUTE, points=1, seed=1).completed / per_minute
            for numbers in (minutes, around)
        )
        inside.append(during.mean())
        outside.append(usual.mean())
        middles = (minutes * MINUTE + 30).astype(np.float64)
        expected.append(bursts(profile, middles, seed=1).mean())
        # 120 requests a minute at a factor of 1.
        assert during.max() > event.size - 5.0 * math.sqrt(event.size / per_minute)
        assert during.mean() == pytest.approx(expected[-1], rel=5.0 / math.sqrt(240 * minutes.size))
    assert len(inside) > 5
    assert np.mean(inside) > HIGH_DEMAND
    assert np.mean(outside) < HIGH_DEMAND


@pytest.mark.parametrize("kind", ["capacity", "burst"])
def test_spell_lasts_while_its_factor_is_beyond_the_threshold(kind: str) -> None:
    profile = MODELS["GPT-4o"]
    known = of_kind(kind, profile, 365)

    def beyond(times: Array) -> npt.NDArray[np.bool_]:
        if kind == "capacity":
            return own_capacity(profile, times, seed=1) <= LOW_CAPACITY
        return bursts(profile, times, seed=1) >= HIGH_DEMAND

    for event in known:
        assert event.ended_at is not None
        edges = np.array([event.started_at, event.ended_at - 1.0])
        assert beyond(edges).all()
        assert not beyond(edges + np.array([-1.0, 1.0])).any()
        first, last = math.ceil(event.started_at / GRID), math.floor(edges[1] / GRID)
        assert beyond(GRID * np.arange(first, last + 1.0)).all()
    # No instant of the grid beyond the threshold is outside of the events.
    numbers = np.arange(START, known[-1].ended_at or START, GRID)
    numbers = numbers[(numbers >= known[0].started_at) & beyond(numbers)]
    starts, ends = np.array([(event.started_at, event.ended_at) for event in known]).T
    within = np.searchsorted(starts, numbers, side="right") - 1
    assert (numbers < ends[within]).all()
    assert set(within.tolist()) == set(range(len(known)))


def test_release_and_retirement_show_in_completed_counts() -> None:
    released, retired = date(2026, 2, 1), date(2026, 12, 1)
    profile = steady(MODELS["GPT-4o"], 0.4, failure_rate=0.0, released=released, retired=retired)
    release, retirement = found(profile, START, START + YEAR)
    assert (release.kind, release.started_at) == ("release", midnight(released))
    assert (retirement.kind, retirement.started_at) == ("retirement", midnight(retired))
    assert release.ended_at is retirement.ended_at is None
    assert release.size == 1.0 / TRICKLE
    assert retirement.size == TRICKLE
    for event, before, after in ((release, 0.0, 10 * GROWTH), (retirement, 0.0, 10 * DECLINE)):
        counts = [
            simulate(profile, hour + np.arange(48), interval=HOUR, points=1, seed=1).completed.sum()
            for hour in (
                int(event.started_at - before) // HOUR - 48,
                int(event.started_at + after) // HOUR,
            )
        ]
        # Before the release, 27,648 requests in two days.
        assert counts[1] / counts[0] == pytest.approx(event.size, rel=0.04)
