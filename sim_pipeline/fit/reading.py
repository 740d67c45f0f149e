"""Reads the files of benchmark tools. The content of a file decides its format, not its name."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from sim_pipeline.fit.formats import (
    aiperf,
    guidellm,
    inference_perf,
    llmperf,
    quantiles_csv,
    requests_csv,
    vllm,
)
from sim_pipeline.fit.formats.fields import shown
from sim_pipeline.fit.measurement import LoadPoint, MeasurementError

_Content = TypeVar("_Content")


@dataclass(frozen=True)
class Format(Generic[_Content]):
    """A format of a file.

    Attributes:
        name: for error messages.
        recognises: tells whether a content has the format.
        read: returns the load points; its first argument is the file, for error messages.
    """

    name: str
    recognises: Callable[[_Content], bool]
    read: Callable[[str, _Content], list[LoadPoint]]


# JSON is a list of documents: one, or one per line. CSV is a list of rows, of which the first is
# not empty. The first format that recognises a content reads it.
JSON_FORMATS: Final[tuple[Format[Sequence[object]], ...]] = (
    Format("vLLM bench serve", vllm.recognises, vllm.read),
    Format("AIPerf or GenAI-Perf", aiperf.recognises, aiperf.read),
    Format("AIPerf records", aiperf.recognises_records, aiperf.read_records),
    Format("GuideLLM", guidellm.recognises, guidellm.read),
    Format("LLMPerf responses", llmperf.recognises, llmperf.read),
    Format("LLMPerf summary", llmperf.recognises_summary, llmperf.read_summary),
    Format("inference-perf", inference_perf.recognises, inference_perf.read),
)
CSV_FORMATS: Final[tuple[Format[Sequence[Sequence[str]]], ...]] = (
    Format("AIPerf or GenAI-Perf", aiperf.recognises_csv, aiperf.read_csv),
    Format("quantiles (metric, p50, ...)", quantiles_csv.recognises, quantiles_csv.read),
    Format("requests (ttft_ms, tps, ...)", requests_csv.recognises, requests_csv.read),
)


def read_measurements(paths: Sequence[Path]) -> list[LoadPoint]:
    """Return what the files measured, in their order.

    A summary of LLMPerf and the individual responses of the same run become one load point.

    Raises:
        MeasurementError: a file cannot be read, has no known format, or has an invalid field.
    """
    return llmperf.join([point for path in paths for point in _read(path)])


def _read(path: Path) -> list[LoadPoint]:
    source = str(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise MeasurementError(f"{source}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise MeasurementError(f"{source}: is not text in UTF-8") from error
    start = text.lstrip()[:1]
    if not start:
        raise MeasurementError(f"{source}: is empty")
    if start in "{[":
        documents = _parse_json(source, text)
        return _pick(source, JSON_FORMATS, documents, f"fields {_names(documents[0])}")
    rows = _parse_csv(source, text)
    return _pick(source, CSV_FORMATS, rows, f"columns {_names(rows[0])}")


def _pick(
    source: str, formats: Sequence[Format[_Content]], content: _Content, found: str
) -> list[LoadPoint]:
    for candidate in formats:
        if candidate.recognises(content):
            return candidate.read(source, content)
    raise MeasurementError(
        f"{source}: no format fits: expected one of {', '.join(f.name for f in formats)}; "
        f"it has the {found}"
    )


def _parse_json(source: str, text: str) -> list[object]:
    """Return the documents: the whole text, or one per line."""
    try:
        return [json.loads(text)]
    except json.JSONDecodeError as error:
        # Where a second document begins, the first one is complete.
        if not error.msg.startswith("Extra data"):
            raise _not_json(source, error.lineno, error) from error
    except (ValueError, RecursionError) as error:
        raise _not_json(source, 1, error) from error
    documents = []
    # Not splitlines(): strings in JSON may contain other line ends, such as U+2028.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                documents.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise _not_json(source, number, error) from error
    return documents


def _not_json(source: str, line: int, error: Exception) -> MeasurementError:
    reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
    return MeasurementError(f"{source}: line {line} is not valid JSON: {reason}")


def _parse_csv(source: str, text: str) -> list[list[str]]:
    """Return the rows from the first one that is not empty; commas, semicolons or tabs separate."""
    text = text.lstrip()
    first = text.partition("\n")[0]
    lines = io.StringIO(text, newline="")
    try:
        rows = list(csv.reader(lines, delimiter=max(",;\t", key=first.count)))
    except csv.Error as error:
        raise MeasurementError(f"{source}: is not valid CSV: {error}") from error
    return [[" ".join(cell.split()) for cell in row] for row in rows]


def _names(content: object) -> str:
    """Return the names of fields or columns for an error message."""
    names = list(content)[:12] if isinstance(content, dict | list) else []
    return ", ".join(str(name) if str(name).isidentifier() else shown(name) for name in names)
