"""The progress display of a backfill: bars on a terminal, a line every 5 s elsewhere."""

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from sim_pipeline.timestamps import format_duration

_LINE_SECONDS = 5.0


@dataclass(frozen=True)
class ProgressSnapshot:
    """The progress of a backfill at one time.

    Attributes:
        stored: number of stored windows, over all models.
        published: number of published windows, over all models.
        runs: number of runs.
        runs_succeeded: number of runs that have succeeded.
        runs_to_retry: number of runs that died and that Dagster is about to retry.
    """

    stored: int
    published: int
    runs: int
    runs_succeeded: int
    runs_to_retry: int = 0


class Throughput:
    """The speed of a backfill and the time that it still needs.

    A window is half done when it is stored. Time counts from the last snapshot before the first
    progress, because the wait for the first run says nothing about the speed.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._began: tuple[float, float] | None = None
        self._now: tuple[float, float] = (0.0, 0.0)

    def add(self, seconds: float, snapshot: ProgressSnapshot) -> None:
        """Add a snapshot, taken at a time of a monotonic clock [s]."""
        self._now = (seconds, (snapshot.stored + snapshot.published) / 2)
        if self._began is None or self._now[1] == self._began[1]:
            self._began = self._now

    @property
    def windows_per_second(self) -> float | None:
        """Windows per second so far; None before the first progress."""
        if self._began is None or self._now[1] <= self._began[1]:
            return None
        return (self._now[1] - self._began[1]) / max(1e-3, self._now[0] - self._began[0])

    @property
    def seconds_left(self) -> float | None:
        """Seconds until all windows are done; None before the first progress."""
        rate = self.windows_per_second
        return None if rate is None else max(0.0, self._total - self._now[1]) / rate


class Display:
    """Shows the progress of a backfill on a console. Use it as a context manager."""

    def __init__(self, console: Console, total: int) -> None:
        """Prepare the display; nothing is printed yet.

        Args:
            console: the console to print to.
            total: number of windows of the backfill, over all models.
        """
        self._console = console
        self._total = total
        self._throughput = Throughput(total)
        self._printed = 0.0
        self._bars = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} windows"),
        )
        self._stored = self._bars.add_task("stored", total=total)
        self._published = self._bars.add_task("published", total=total)
        self._live = Live(console=console, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def show(self, snapshot: ProgressSnapshot) -> None:
        """Show a snapshot that was taken now."""
        now = time.monotonic()
        self._throughput.add(now, snapshot)
        if self._console.is_terminal:
            self._bars.update(self._stored, completed=snapshot.stored)
            self._bars.update(self._published, completed=snapshot.published)
            self._live.update(Group(self._bars, Text(self._run_status(snapshot))))
        elif now >= self._printed + _LINE_SECONDS:
            self._printed = now
            self._console.print(
                f"{snapshot.stored:,} of {self._total:,} windows stored,"
                f" {snapshot.published:,} published; {self._run_status(snapshot)}",
                soft_wrap=True,
            )

    def _run_status(self, snapshot: ProgressSnapshot) -> str:
        runs = f"{snapshot.runs_succeeded:,} of {snapshot.runs:,} runs done"
        if snapshot.runs_to_retry:
            runs += f"; Dagster retries {snapshot.runs_to_retry:,} that died, within a minute"
        rate, left = self._throughput.windows_per_second, self._throughput.seconds_left
        if rate is None or left is None:
            return runs
        return f"{runs}; {rate:,.0f} windows/s, {format_duration(left)} left"
