"""What is asked of a backfill: FROM, TO and MODELS as a person writes them, read and judged.

What belongs here: words to a `Request`, and a request to windows and partitions. Nothing here
reads a clock, asks a database or knows Dagster.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from sim_pipeline.comparison.ranking import HISTORY
from sim_pipeline.dagster_instance.run_tags import with_models
from sim_pipeline.timestamps import parse_timestamp
from sim_pipeline.windows import Cadence

DEFAULT_LENGTH: Final = HISTORY
"""What is simulated where nothing else is asked for: what a comparison of the models looks at."""


class RequestError(ValueError):
    """What is asked can't be done; the message names each bad value and what is allowed."""


@dataclass(frozen=True)
class Request:
    """The windows of some models that start from one moment on and before another.

    Attributes:
        llm_names: the models, in the order of LLM_MODELS_STR.
        since: the first label that belongs to it, UTC.
        until: the first label that no longer does, UTC.
    """

    llm_names: tuple[str, ...]
    since: datetime
    until: datetime

    @property
    def name(self) -> str:
        """What tells this request from others: the same words, the same name.

        The models are in it as a digest: Dagster's index of tags holds no long text.
        """
        return with_models(f"{iso(self.since)}/{iso(self.until)}/", self.llm_names)

    def windows_ended(self, cadence: Cadence, now: datetime) -> range:
        """Return the numbers of its windows that have ended at a moment, the same for each model.

        Args:
            cadence: the windows of the feed.
            now: aware.
        """
        windows = cadence.windows_between(self.since, self.until)
        return range(windows.start, max(windows.start, min(windows.stop, cadence.window_at(now))))


def days_of(windows: range, cadence: Cadence) -> Iterator[tuple[date, int]]:
    """Go through the UTC days that some of these windows start in: the day, and how many do.

    Args:
        windows: window numbers.
        cadence: the windows of the feed.
    """
    first = windows.start
    while first < windows.stop:
        day = cadence.day_of(first)
        stop = min(windows.stop, cadence.windows_of_day(day).stop)
        yield day, stop - first
        first = stop


def read_request(
    since: str | None,
    until: str | None,
    models: str,
    *,
    known: tuple[str, ...],
    cadence: Cadence,
    now: datetime,
) -> Request:
    """Read what was written behind FROM, TO and MODELS.

    Args:
        since: ISO 8601; without a zone it is UTC. None for `DEFAULT_LENGTH` before `until`, or for
            the first window if that is later.
        until: the same; excluded. None for the end of the latest window that has ended.
        models: comma-separated names; empty for all.
        known: the models there are.
        cadence: the windows of the feed.
        now: aware; no window that ends later can be had.

    Raises:
        RequestError: names every bad value, and what is allowed.
    """
    wrong: list[str] = []
    until = iso(cadence.start_of(cadence.window_at(now))) if until is None else until
    end = _moment("TO", until, wrong)
    if since is None:
        since = iso(cadence.start)
        if end is not None and end - cadence.start > DEFAULT_LENGTH:
            since = iso(end - DEFAULT_LENGTH)
    first = _moment("FROM", since, wrong)
    llm_names = _models(models, known, wrong)
    if first is not None and first < cadence.start:
        wrong.append(
            f"FROM={since!r}: lies before SIMULATION_START; allowed is from {iso(cadence.start)} on"
        )
    if first is not None and end is not None:
        request = Request(llm_names, first, end)
        if end <= first:
            wrong.append(f"TO={until!r}: allowed is a time after FROM={since!r}; TO is excluded")
        elif not wrong and not request.windows_ended(cadence, now):
            length = timedelta(seconds=cadence.interval)
            wrong.append(
                f"FROM={since!r} TO={until!r}: no window that starts there has ended; allowed is a"
                f" time with one of the windows of {length}, the latest of which ended at"
                f" {iso(cadence.start_of(cadence.window_at(now)))}"
            )
        if not wrong:
            return request
    raise RequestError("\n".join(wrong))


def iso(timestamp: datetime) -> str:
    """Write a moment as ISO 8601, UTC, with a Z."""
    return timestamp.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _moment(name: str, text: str, wrong: list[str]) -> datetime | None:
    try:
        return parse_timestamp(text)
    except ValueError as error:
        wrong.append(f"{name}={error}")
        return None


def _models(text: str, known: tuple[str, ...], wrong: list[str]) -> tuple[str, ...]:
    names = {name for part in text.split(",") if (name := part.strip())}
    unknown = sorted(names - set(known))
    if unknown:
        wrong.append(
            f"MODELS: unknown is {', '.join(map(repr, unknown))}; allowed are {', '.join(known)}"
        )
    return tuple(name for name in known if name in names or not names)
