"""Reads the alarms of a detector from CSV or JSON lines. The content decides the format."""

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from sim_pipeline.fit.formats.fields import shown
from sim_pipeline.metrics import METRICS
from sim_pipeline.scoring.score import ANY_METRIC, Alarm
from sim_pipeline.timestamps import ALLOWED, parse_timestamp

_MODEL: Final = ("model", "llm_name")
_TIME: Final = ("time", "timestamp")

Record = Mapping[str, object]


class ScoringError(Exception):
    """Invalid alarms or arguments. The message is one line for the user."""


def read_alarms(source: str, content: bytes, *, llm_names: Collection[str]) -> list[Alarm]:
    """Return the alarms of a file, in its order.

    Args:
        source: the file, for error messages.
        content: its bytes.
        llm_names: the models that alarms may name.

    Raises:
        ScoringError: the content is empty, is neither CSV nor JSON lines, or a value is invalid.
            The message has the file and the line.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ScoringError(f"{source}: is not text in UTF-8") from error
    start = text.lstrip()[:1]
    if not start:
        raise ScoringError(f"{source}: is empty: must have alarms as CSV or JSON lines")
    records = _json_lines(source, text) if start in "{[" else _csv_rows(source, text)
    return [_alarm(where, record, llm_names) for where, record in records]


def _json_lines(source: str, text: str) -> Iterator[tuple[str, Record]]:
    """Yield the object of each line, and where it is."""
    # Not splitlines(): strings in JSON may contain other line ends, such as U+2028.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{source}: line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise ScoringError(f"{where} is not valid JSON: {reason}") from error
        if not isinstance(record, dict):
            raise ScoringError(f"{where} is {shown(record)}: must be an object, one per line")
        yield where, record


def _csv_rows(source: str, text: str) -> Iterator[tuple[str, Record]]:
    """Yield the cells of each row by name of the column, and where the row is."""
    first = text.lstrip().partition("\n")[0]
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True
    )
    header: Sequence[str] = ()
    try:
        for row in reader:
            where = f"{source}: line {reader.line_num}"
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if not header:
                header = cells
                for names in (_MODEL, _TIME):
                    _name_in(where, header, names)
            elif len(cells) > len(header):
                raise ScoringError(
                    f"{where} has {len(cells)} cells: must have {len(header)}, as the header"
                )
            else:
                yield where, dict(zip(header, cells, strict=False))
    except csv.Error as error:
        raise ScoringError(f"{source}: line {reader.line_num} is not valid CSV: {error}") from error


def _name_in(where: str, found: Collection[str], names: Sequence[str]) -> str:
    """Return the one of ``names`` that is in ``found``."""
    present = [name for name in names if name in found]
    if len(present) == 1:
        return present[0]
    others = f"the columns {', '.join(map(shown, [*found][:12]))}" if found else "no columns"
    raise ScoringError(
        f"{where} has {others}: must have one of {', '.join(names)}"
        + (", not both" if present else "")
    )


def _alarm(where: str, record: Record, llm_names: Collection[str]) -> Alarm:
    model, time = (_name_in(where, record, names) for names in (_MODEL, _TIME))
    llm_name, metric = record[model], record.get("metric")
    if not isinstance(llm_name, str) or llm_name not in llm_names:
        raise ScoringError(
            f"{where}: {model} is {shown(llm_name)}: must be one of {', '.join(llm_names)}"
        )
    if metric not in (None, "", *METRICS):
        raise ScoringError(
            f"{where}: metric is {shown(metric)}: must be one of {', '.join(METRICS)}, or empty"
            " for any"
        )
    text = record[time]
    try:
        raised = parse_timestamp(text) if isinstance(text, str) else None
    except ValueError:
        raised = None
    if raised is None:
        raise ScoringError(f"{where}: {time} is {shown(text)}: must be {ALLOWED}")
    return Alarm(llm_name, str(metric or ANY_METRIC), raised)
