"""The progress display: bars on a terminal, lines elsewhere, and the estimate of the speed."""

import io

import pytest
from rich.console import Console

from sim_pipeline.backfill.progress import Display, ProgressSnapshot, Throughput


def test_throughput_excludes_wait_for_first_run() -> None:
    throughput = Throughput(total=1000)
    throughput.add(0.0, ProgressSnapshot(stored=200, published=200, runs=0, runs_succeeded=0))
    throughput.add(30.0, ProgressSnapshot(stored=200, published=200, runs=2, runs_succeeded=0))
    assert throughput.windows_per_second is None
    assert throughput.seconds_left is None
    # 100 windows that are stored but not published count as 50.
    throughput.add(40.0, ProgressSnapshot(stored=300, published=200, runs=2, runs_succeeded=0))
    assert throughput.windows_per_second == pytest.approx(5)
    assert throughput.seconds_left == pytest.approx(150)


def test_output_without_terminal_is_lines() -> None:
    output = io.StringIO()
    with Display(Console(file=output), total=70_080) as display:
        display.show(ProgressSnapshot(stored=35_040, published=1_000, runs=8, runs_succeeded=3))
        display.show(ProgressSnapshot(stored=35_041, published=1_001, runs=8, runs_succeeded=3))
    assert output.getvalue() == (
        "35,040 of 70,080 windows stored, 1,000 published; 3 of 8 runs done\n"
    )


def test_output_on_terminal_is_bars() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=80)
    with Display(console, total=70_080) as display:
        display.show(ProgressSnapshot(stored=35_040, published=1_000, runs=8, runs_succeeded=3))
    assert "\x1b[" in output.getvalue()
    assert "35,040 of 70,080 windows" in output.getvalue()
    assert "3 of 8 runs done" in output.getvalue()


def test_awaited_retry_is_named() -> None:
    output = io.StringIO()
    with Display(Console(file=output), total=100) as display:
        display.show(
            ProgressSnapshot(stored=10, published=0, runs=2, runs_succeeded=1, runs_to_retry=1)
        )
    assert "1 of 2 runs done; Dagster retries 1 that died, within a minute" in output.getvalue()
