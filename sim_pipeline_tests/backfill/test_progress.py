"""Progress: bars on a terminal, lines elsewhere; pace from the first window on."""

import io

import pytest
from rich.console import Console

from sim_pipeline.backfill.progress import Display, ProgressSnapshot, Throughput, duration


def test_pace_does_not_count_the_wait_for_the_first_window() -> None:
    pace = Throughput(total=1000)
    pace.note(0.0, ProgressSnapshot(stored=200, published=200, runs=0, runs_succeeded=0))
    pace.note(30.0, ProgressSnapshot(stored=200, published=200, runs=2, runs_succeeded=0))
    assert pace.windows_per_second is None
    assert pace.seconds_left is None
    # 100 windows stored and not yet published are 50 done.
    pace.note(40.0, ProgressSnapshot(stored=300, published=200, runs=2, runs_succeeded=0))
    assert pace.windows_per_second == pytest.approx(5)
    assert pace.seconds_left == pytest.approx(150)


def test_a_line_says_how_far_it_is() -> None:
    output = io.StringIO()
    with Display(Console(file=output), total=70_080) as display:
        display.show(ProgressSnapshot(stored=35_040, published=1_000, runs=8, runs_succeeded=3))
        display.show(ProgressSnapshot(stored=35_041, published=1_001, runs=8, runs_succeeded=3))
    assert output.getvalue() == (
        "35,040 of 70,080 windows stored, 1,000 published; 3 of 8 runs done\n"
    )


def test_a_terminal_gets_bars() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=80)
    with Display(console, total=70_080) as display:
        display.show(ProgressSnapshot(stored=35_040, published=1_000, runs=8, runs_succeeded=3))
    assert "\x1b[" in output.getvalue()
    assert "35,040 of 70,080 windows" in output.getvalue()
    assert "3 of 8 runs done" in output.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (125, "2:05 min"), (7260, "2:01 h")],
)
def test_a_duration_is_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
