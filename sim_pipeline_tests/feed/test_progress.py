"""The log lines of `Progress`."""

import logging

import pytest

from sim_pipeline.feed.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> list[float]:
    """The time, in a list; it advances only when the test changes it."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    caplog.set_level(logging.INFO, "sim_pipeline.feed.progress")
    return now


def test_report_has_progress_rate_and_time_left(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    stored = Progress("Stored", "rows", 70_080)
    clock[0] += 10
    stored.report(17_520, 40_000)
    assert caplog.messages == ["Stored 17,520 of 70,080 windows, 40,000 rows (4,000/s), 30 s left"]


def test_report_logs_every_five_seconds(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    sent = Progress("Published", "messages", 60)
    for done in range(1, 61):
        clock[0] += 1
        sent.report(done, done)
    assert len(caplog.messages) == 12
    sent.end(60, 60)
    assert caplog.messages[-1] == "Published 60 of 60 windows, 60 messages (1/s), 1:00 min in all"


def test_nothing_done_is_no_error(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    stored = Progress("Stored", "rows", 5)
    stored.end(0, 0)
    clock[0] += 5
    stored.report(0, 0)
    assert caplog.messages == [
        "Stored 0 of 5 windows, 0 rows (0/s), 0 s in all",
        "Stored 0 of 5 windows, 0 rows (0/s), unknown time left",
    ]
