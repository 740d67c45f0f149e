"""How a backfill's progress is shown: bars on a terminal, now and then a line elsewhere."""

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

_LINE_SECONDS = 5.0


@dataclass(frozen=True)
class ProgressSnapshot:
    """What is seen of a backfill at one moment.

    Attributes:
        stored: windows of a model that are stored.
        published: windows of a model that are published.
        runs: how many runs there are so far.
        runs_succeeded: how many of them have succeeded.
    """

    stored: int
    published: int
    runs: int
    runs_succeeded: int


class Throughput:
    """How fast windows are done, and how long the rest takes at that.

    A window is half done when it is stored. The clock runs from the last look that had seen no
    progress yet: how long a backfill waits for its first run says nothing of its pace.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._began: tuple[float, float] | None = None
        self._now: tuple[float, float] = (0.0, 0.0)

    def note(self, seconds: float, look: ProgressSnapshot) -> None:
        """Take in what was seen at a moment of a clock that only goes forward."""
        self._now = (seconds, (look.stored + look.published) / 2)
        if self._began is None or self._now[1] == self._began[1]:
            self._began = self._now

    @property
    def windows_per_second(self) -> float | None:
        """Windows a second so far; None if none was done yet."""
        if self._began is None or self._now[1] <= self._began[1]:
            return None
        return (self._now[1] - self._began[1]) / max(1e-3, self._now[0] - self._began[0])

    @property
    def seconds_left(self) -> float | None:
        """Seconds until all windows are done; None if that can't be said."""
        rate = self.windows_per_second
        return None if rate is None else max(0.0, self._total - self._now[1]) / rate


class Display:
    """A backfill's progress on a console, from entering the context to leaving it."""

    def __init__(self, console: Console, total: int) -> None:
        """Prepare to show; nothing is printed yet.

        Args:
            console: where to.
            total: windows of a model that the backfill is for.
        """
        self._console = console
        self._total = total
        self._pace = Throughput(total)
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

    def show(self, look: ProgressSnapshot) -> None:
        """Show what was seen just now."""
        now = time.monotonic()
        self._pace.note(now, look)
        if self._console.is_terminal:
            self._bars.update(self._stored, completed=look.stored)
            self._bars.update(self._published, completed=look.published)
            self._live.update(Group(self._bars, Text(self._in_words(look))))
        elif now >= self._printed + _LINE_SECONDS:
            self._printed = now
            self._console.print(
                f"{look.stored:,} of {self._total:,} windows stored, {look.published:,} published;"
                f" {self._in_words(look)}",
                soft_wrap=True,
            )

    def _in_words(self, look: ProgressSnapshot) -> str:
        if not look.runs:
            return "Dagster looks for new backfills every 30 s"
        runs = f"{look.runs_succeeded:,} of {look.runs:,} runs done"
        if look.runs == look.runs_succeeded:
            return f"{runs}; Dagster looks for that every 30 s"
        rate, left = self._pace.windows_per_second, self._pace.seconds_left
        if rate is None or left is None:
            return runs
        return f"{runs}; {rate:,.0f} windows/s, {duration(left)} left"


def duration(seconds: float) -> str:
    """Write a number of seconds for people: 42 s, 1:05 min, 2:00 h."""
    whole = round(seconds)
    if whole < 60:  # noqa: PLR2004 - seconds of a minute
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:  # noqa: PLR2004 - minutes of an hour
        return f"{minutes}:{rest:02} min"
    return f"{minutes // 60}:{minutes % 60:02} h"
