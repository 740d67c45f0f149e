"""Exports of AIPerf and its predecessor GenAI-Perf: a summary in JSON or CSV, requests in JSONL.

The three have the same metrics, with a unit each. AIPerf's inter-token latency is that of a
request, without the time to its first token.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from sim_pipeline.fit.formats.fields import SECONDS_PER, Fields, finite, shown
from sim_pipeline.fit.measurement import (
    Distribution,
    LoadPoint,
    MeasurementError,
    Request,
    complete,
    from_requests,
)

_METRICS = frozenset({"time_to_first_token", "inter_token_latency", "request_latency"})
_NO_VALUE = frozenset({"", "n/a"})


def recognises(documents: Sequence[object]) -> bool:
    """Return whether the first of ``documents`` is a summary."""
    first = documents[0]
    return isinstance(first, dict) and (
        "aiperf_version" in first
        or any(isinstance(m := first.get(name), dict) and "unit" in m for name in _METRICS)
    )


def read(source: str, documents: Sequence[object]) -> list[LoadPoint]:
    """Return the load point of a summary, the first of ``documents``.

    Raises:
        MeasurementError: a field is invalid.
    """
    return [_from_summary(source, Fields(source, documents[0]))]


def recognises_records(documents: Sequence[object]) -> bool:
    """Return whether the first of ``documents`` is a request of AIPerf."""
    first = documents[0]
    return isinstance(first, dict) and {"metadata", "metrics"} <= first.keys()


def read_records(source: str, documents: Sequence[object]) -> list[LoadPoint]:
    """Return the load point of the requests in ``documents``, without those of the warm-up.

    Raises:
        MeasurementError: a field is invalid.
    """
    requests = []
    failed = 0
    for number, document in enumerate(documents, 1):
        record = Fields(f"{source}: request {number}", document)
        metadata = record.child("metadata")
        if metadata is None or metadata.text("benchmark_phase") == "warmup":
            continue
        metrics = record.child("metrics")
        if metrics is None or record.has("error") or metadata.content.get("was_cancelled") is True:
            failed += 1
            continue
        start_ns = metadata.number("request_start_ns")
        requests.append(
            Request(
                ttft=_value(metrics, "time_to_first_token", time=True),
                e2e=_value(metrics, "request_latency", time=True),
                itl=_value(metrics, "inter_token_latency", time=True),
                input_tokens=_value(metrics, "input_sequence_length"),
                output_tokens=_value(metrics, "output_sequence_length"),
                start_s=None if start_ns is None else start_ns * 1e-9,
            )
        )
    return [from_requests(LoadPoint(source=source, tool="AIPerf", failed=failed), requests)]


def recognises_csv(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether ``rows`` are a summary in CSV."""
    return rows[0][0].lower() == "metric" and any(
        _metric_name(row[0])[0] in _METRICS for row in rows if row
    )


def read_csv(source: str, rows: Sequence[Sequence[str]]) -> list[LoadPoint]:
    """Return the load point of a summary in CSV.

    Raises:
        MeasurementError: a field is invalid.
    """
    metrics: dict[str, object] = {}
    header: Sequence[str] = ()
    for row in rows:
        if not row:
            continue
        if row[0].lower() == "metric":
            header = [name.lower().replace("value", "avg") for name in row]
            continue
        name, unit = _metric_name(row[0])
        values = {h: _number(v) for h, v in zip(header[1:], row[1:], strict=False)}
        metrics[name] = {"unit": unit, **values}
    return [_from_summary(source, Fields(source, metrics))]


def _metric_name(cell: str) -> tuple[str, str | None]:
    """Split "Time to First Token (ms)" into "time_to_first_token" and "ms"."""
    name, _, unit = cell.partition(" (")
    return re.sub(r"\W+", "_", name.lower()), unit.rstrip(")") or None


def _number(cell: str) -> float | str | None:
    text = cell.replace(",", "")
    if text.lower() in _NO_VALUE:
        return None
    try:
        return float(text)
    except ValueError:
        return cell


def _from_summary(source: str, export: Fields) -> LoadPoint:
    def scalar(name: str, *, time: bool = False) -> float | None:
        metric = export.child(name)
        value = metric.number("avg", zero=True) if metric else None
        return value * _unit_s(metric) if value is not None and time and metric else value

    def metric(name: str, *, time: bool = False) -> Distribution | None:
        fields = export.child(name)
        if fields is None:
            return None
        return fields.distribution(
            mean="avg",
            unit_s=_unit_s(fields) if time else 1.0,
            count=fields.count("count") or completed,
            zero=True,
        )

    count = export.child("request_count")
    completed = count.count("avg") if count else None
    errors = export.child("error_request_count")
    # AIPerf leaves the metric out if no request failed; GenAI-Perf does not count failures.
    failed = errors.count("avg") if errors else 0 if export.has("aiperf_version") else None
    version = export.text("aiperf_version")
    point = LoadPoint(
        source=source,
        tool="AIPerf" if version else "AIPerf or GenAI-Perf",
        version=version,
        completed=completed,
        failed=failed,
        duration_s=scalar("benchmark_duration", time=True),
        rate=scalar("request_throughput") or None,
        concurrency_limit=_concurrency_limit(export),
        input_tokens=metric("input_sequence_length"),
        output_tokens=metric("output_sequence_length"),
        ttft=metric("time_to_first_token", time=True),
        itl=metric("inter_token_latency", time=True),
        tps=metric("output_token_throughput_per_user"),
        e2e=metric("request_latency", time=True),
    )
    if export.content.get("is_complete") is False or export.content.get("was_cancelled") is True:
        point = replace(point, notes=("The run ended before it was complete.",))
    return complete(point)


def _concurrency_limit(export: Fields) -> float | None:
    """Return the configured concurrency. Where it is depends on the version of the tool."""
    config = export.child("input_config")
    if config is None:
        return None
    settings = [config.child("loadgen"), config.child("perf_analyzer", "stimulus")]
    settings += [p for p in config.objects("phases") if p.content.get("name") != "warmup"]
    limits = (finite(s.content.get("concurrency")) for s in settings if s is not None)
    return next((limit for limit in limits if limit), None)


def _value(metrics: Fields, name: str, *, time: bool = False) -> float | None:
    metric = metrics.child(name)
    value = metric.number("value", zero=True) if metric else None
    return value * _unit_s(metric) if value and time and metric else value or None


def _unit_s(metric: Fields) -> float:
    unit = metric.content.get("unit")
    if not isinstance(unit, str) or unit not in SECONDS_PER:
        raise MeasurementError(
            f"{metric.path('unit')} is {shown(unit)}: must be one of {', '.join(SECONDS_PER)}"
        )
    return SECONDS_PER[unit]
