"""The request of a backfill: parses and validates FROM, TO and MODELS.

Also converts a request to windows and days. Nothing here reads a clock, queries a database or calls
Dagster.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

from sim_pipeline.comparison.ranking import HISTORY
from sim_pipeline.timestamps import format_timestamp, parse_timestamp
from sim_pipeline.windows import Cadence

DEFAULT_LENGTH: Final = HISTORY
"""The length of a backfill without FROM: the history that the comparison of the models uses."""


class RequestError(ValueError):
    """Invalid FROM, TO or MODELS; the message lists each bad value and what is allowed."""


@dataclass(frozen=True)
class Request:
    """The windows of some models whose start is in [since, until).

    Attributes:
        llm_names: the models, in the order of LLM_MODELS_STR.
        since: the earliest window start, UTC, included.
        until: the end of the range of window starts, UTC, excluded.
        since_given: whether the user gave `since`; its default moves with time.
        until_given: whether the user gave `until`.
    """

    llm_names: tuple[str, ...]
    since: datetime
    until: datetime
    since_given: bool = True
    until_given: bool = True

    @property
    def name(self) -> str:
        """The name that identifies this request: the same FROM, TO and MODELS have the same name.

        It contains the models as a digest, because Dagster's index of tags limits the length.
        """
        since = format_timestamp(self.since) if self.since_given else "default"
        until = format_timestamp(self.until) if self.until_given else "default"
        models = hashlib.sha256("\n".join(self.llm_names).encode()).hexdigest()[:12]
        return f"{since}/{until}/{models}"

    def windows_ended(self, cadence: Cadence, now: datetime) -> range:
        """Return the numbers of the windows that have ended, the same for each model.

        Args:
            cadence: the windows of the feed.
            now: the current time, aware.
        """
        windows = cadence.windows_between(self.since, self.until)
        return range(windows.start, max(windows.start, min(windows.stop, cadence.window_at(now))))


def days_of(windows: range, cadence: Cadence) -> Iterator[tuple[date, int]]:
    """Yield each UTC day that contains window starts, with their number.

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
    """Parse the values of FROM, TO and MODELS.

    Args:
        since: ISO 8601, UTC unless it names a zone. None means `DEFAULT_LENGTH` before `until`, or
            SIMULATION_START if that is later.
        until: ISO 8601 as well; excluded. None means the end of the latest window that has ended.
        models: comma-separated names; empty means all models.
        known: the models of LLM_MODELS_STR.
        cadence: the windows of the feed.
        now: the current time, aware. Windows that end later are not available.

    Returns:
        The request.

    Raises:
        RequestError: lists every bad value and what is allowed.
    """
    problems: list[str] = []
    since_given, until_given = since is not None, until is not None
    until = format_timestamp(cadence.start_of(cadence.window_at(now))) if until is None else until
    end = _parse("TO", until, problems)
    if since is None:
        since = format_timestamp(cadence.start)
        if end is not None and end - cadence.start > DEFAULT_LENGTH:
            since = format_timestamp(end - DEFAULT_LENGTH)
    first = _parse("FROM", since, problems)
    llm_names = _parse_models(models, known, problems)
    if first is not None and first < cadence.start:
        problems.append(
            f"FROM={since!r}: before SIMULATION_START; allowed is"
            f" {format_timestamp(cadence.start)} or later"
        )
    if first is not None and end is not None:
        request = Request(llm_names, first, end, since_given, until_given)
        if end <= first:
            problems.append(f"TO={until!r}: allowed is a time after FROM={since!r}; TO is excluded")
        elif not problems and not request.windows_ended(cadence, now):
            length = timedelta(seconds=cadence.interval)
            problems.append(
                f"FROM={since!r} TO={until!r}: no window that starts there has ended; allowed is a"
                f" range that contains the start of an ended window; windows last {length}, and the"
                f" latest ended at {format_timestamp(cadence.start_of(cadence.window_at(now)))}"
            )
        if not problems:
            return request
    raise RequestError("\n".join(problems))


def _parse(name: str, text: str, problems: list[str]) -> datetime | None:
    try:
        return parse_timestamp(text)
    except ValueError as error:
        problems.append(f"{name}={error}")
        return None


def _parse_models(text: str, known: tuple[str, ...], problems: list[str]) -> tuple[str, ...]:
    names = {name for part in text.split(",") if (name := part.strip())}
    unknown = sorted(names - set(known))
    if unknown:
        problems.append(
            f"MODELS: unknown models: {', '.join(map(repr, unknown))};"
            f" allowed are {', '.join(known)}"
        )
    return tuple(name for name in known if name in names or not names)
