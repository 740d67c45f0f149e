"""What a run says of how far it is."""

import logging

import pytest

from sim_pipeline.feed.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> list[float]:
    """A clock that stands until the test moves it: what is said depends on the time."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    caplog.set_level(logging.INFO, "sim_pipeline.feed.progress")
    return now


def test_it_tells_how_far_it_is_and_how_long_it_will_take(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    stored = Progress("Stored", "rows", 70_080)
    clock[0] += 10
    stored.report(17_520, 40_000)
    assert caplog.messages == [
        "Stored 17,520 of 70,080 windows, 40,000 rows (4,000/s), 0:00:30 left"
    ]


def test_it_speaks_every_few_seconds_and_at_the_end(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    sent = Progress("Published", "messages", 60)
    for done in range(1, 61):
        clock[0] += 1
        sent.report(done, done)
    assert len(caplog.messages) == 12
    sent.end(60, 60)
    assert caplog.messages[-1] == "Published 60 of 60 windows, 60 messages (1/s), 0:01:00 in all"


def test_nothing_done_in_no_time_is_no_error(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    stored = Progress("Stored", "rows", 5)
    stored.end(0, 0)
    clock[0] += 5
    stored.report(0, 0)
    assert caplog.messages == [
        "Stored 0 of 5 windows, 0 rows (0/s), 0:00:00 in all",
        "Stored 0 of 5 windows, 0 rows (0/s), unknown time left",
    ]
