"""The runs of a backfill: how work is split into them, and which of them are unfinished."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest

from sim_pipeline.backfill.runs import (
    Rectangle,
    Run,
    covered,
    not_retried,
    split,
    worthwhile_runs,
)
from sim_pipeline.dagster_instance.run_tags import WILL_RETRY_TAG, range_tags

MODELS = ("A", "B", "C", "D")
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
FIRST = date(2026, 11, 1)


def days(count: int, first: date = FIRST) -> list[date]:
    return [first + timedelta(days=day) for day in range(count)]


def run(run_id: str = "1", status: str = "SUCCESS", parent: str | None = None, **tags: str) -> Run:
    return Run(run_id, "1", parent, status, NOW, NOW, tags)


@pytest.mark.parametrize(
    ("length", "windows_a_day", "points", "expected"),
    [
        # Eight days of nine models are less work than the start of a second run.
        (8, 24, 5, 1),
        (90, 24, 5, 2),
        (365, 24, 5, 4),
        (2, 24, 10_000, 4),
        (1, 86_400, 5, 4),
        # Ten years of 64 models: no run has more than 10,000 partitions.
        (25_956, 24, 5, 24),
    ],
)
def test_number_of_runs_follows_the_work(
    length: int, windows_a_day: int, points: int, expected: int
) -> None:
    partitions = 9 * length
    assert worthwhile_runs(partitions, partitions * windows_a_day, points, limit=4) == expected


@pytest.mark.parametrize(("length", "runs"), [(365, 3), (10, 4), (2, 5), (1, 1)])
def test_days_are_split_evenly_for_all_models(length: int, runs: int) -> None:
    wanted = {(model, day) for model in MODELS for day in days(length)}
    rectangles = split(wanted, MODELS, runs)
    assert len(rectangles) == min(runs, length)
    assert {each.llm_names for each in rectangles} == {MODELS}
    assert rectangles[0].first_day == FIRST
    assert rectangles[-1].last_day == days(length)[-1]
    for before, after in pairwise(rectangles):
        assert after.first_day == before.last_day + timedelta(days=1)
    sizes = [each.last_day - each.first_day for each in rectangles]
    assert max(sizes) - min(sizes) <= timedelta(days=1)


def test_models_that_are_not_neighbours_have_own_runs() -> None:
    wanted = {(model, day) for model in ("A", "B", "D") for day in days(3)}
    assert split(wanted, MODELS, runs=1) == [
        Rectangle(("A", "B"), FIRST, days(3)[-1]),
        Rectangle(("D",), FIRST, days(3)[-1]),
    ]


def test_unequal_models_do_not_need_more_runs() -> None:
    """A new model lacks a year, and all models one day of it."""
    wanted = {("A", day) for day in days(365)} | {(model, FIRST) for model in MODELS}
    for runs in (1, 3):
        assert len(split(wanted, MODELS, runs)) == runs


def test_complete_days_at_the_ends_are_left_out() -> None:
    wanted = {("A", day) for day in days(3, FIRST + timedelta(days=5))}
    assert split(wanted, MODELS, runs=1) == [
        Rectangle(("A",), FIRST + timedelta(days=5), FIRST + timedelta(days=7))
    ]


def test_split_covers_what_its_runs_cover() -> None:
    wanted = {(model, day) for model in ("B", "C") for day in days(7)}
    runs = [
        run(**range_tags(each.llm_names, each.first_day, each.last_day))
        for each in split(wanted, MODELS, runs=3)
    ]
    assert covered(runs, MODELS) == wanted
    # A user may launch such a run again with other tags.
    assert covered([run()], MODELS) == set()


@pytest.mark.parametrize(
    ("status", "tags", "minutes", "unfinished"),
    [
        ("QUEUED", {}, 60, True),
        ("STARTED", {}, 60, True),
        ("CANCELING", {}, 60, True),
        ("SUCCESS", {}, 0, False),
        ("CANCELED", {}, 0, False),
        ("FAILURE", {}, 0, False),
        ("FAILURE", {WILL_RETRY_TAG: "false"}, 0, False),
        ("FAILURE", {WILL_RETRY_TAG: "true"}, 1, True),
        # The daemon died before it launched the retry, or the web server before it queued the run.
        ("FAILURE", {WILL_RETRY_TAG: "true"}, 4, False),
        ("NOT_STARTED", {}, 1, True),
        ("NOT_STARTED", {}, 4, False),
    ],
)
def test_unfinished_runs(
    status: str, tags: dict[str, str], minutes: int, *, unfinished: bool
) -> None:
    now = NOW + timedelta(minutes=minutes)
    assert run(status=status, **tags).is_unfinished(now) is unfinished


def test_retry_replaces_its_run() -> None:
    died = run("1", "FAILURE", **{WILL_RETRY_TAG: "true"})
    retry = run("2", "STARTED", parent="1")
    other = run("3")
    assert not_retried([other, retry, died]) == [other, retry]
