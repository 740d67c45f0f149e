"""Reports of GuideLLM in JSON: a list of benchmarks, each of them one load.

Its inter_token_latency_ms is without the time to the first token, time_per_output_token_ms is not.
The report's own percentiles of inter_token_latency_ms weight each request by its tokens, so the
requests are used where the report has all of them.
"""

from collections.abc import Sequence
from dataclasses import replace

from sim_pipeline.fit.formats.fields import Fields
from sim_pipeline.fit.measurement import (
    Distribution,
    LoadPoint,
    MeasurementError,
    Request,
    complete,
    from_requests,
)


def recognises(documents: Sequence[object]) -> bool:
    """Return whether the first of ``documents`` is a report of GuideLLM."""
    return isinstance(documents[0], dict) and isinstance(documents[0].get("benchmarks"), list)


def read(source: str, documents: Sequence[object]) -> list[LoadPoint]:
    """Return one load point for each benchmark of the report, the first of ``documents``.

    Raises:
        MeasurementError: a field is invalid, or the report has no benchmark.
    """
    report = Fields(source, documents[0])
    metadata = report.child("metadata")
    version = metadata.text("guidellm_version") if metadata else None
    points = [_load_point(benchmark, version) for benchmark in report.objects("benchmarks")]
    if not points:
        raise MeasurementError(f"{report.path('benchmarks')} is a list of 0: must have a benchmark")
    return points


def _load_point(benchmark: Fields, version: str | None) -> LoadPoint:
    metrics = benchmark.child("metrics")
    if metrics is None:
        raise MeasurementError(f"{benchmark.path('metrics')} is missing: must be an object")
    totals = metrics.child("request_totals") or benchmark.child("request_totals")
    completed = totals.count("successful") if totals else None
    unfinished = [totals.count(name) for name in ("errored", "incomplete")] if totals else [None]
    strategy = benchmark.child("config", "strategy") or benchmark.child("args", "strategy")

    def metric(name: str, unit_s: float = 1.0) -> Distribution | None:
        fields = metrics.child(name, "successful")
        if fields is None:
            return None
        # Without requests, GuideLLM writes zeros.
        distribution = (fields.child("percentiles") or fields).distribution(
            unit_s=unit_s, count=completed, zero=True
        )
        mean = fields.number("mean", zero=True)
        if distribution is None or mean is None:
            return distribution
        return replace(distribution, mean=mean * unit_s)

    concurrency = metric("request_concurrency")
    rate = metric("requests_per_second")
    limit = strategy and (strategy.number("streams") or strategy.number("max_concurrency"))
    point = LoadPoint(
        source=benchmark.where,
        tool="GuideLLM",
        version=version,
        completed=completed,
        failed=sum(n or 0 for n in unfinished) if totals else None,
        duration_s=benchmark.number("duration", zero=True) or None,
        rate=rate.mean if rate else None,
        concurrency=concurrency.mean if concurrency else None,
        concurrency_limit=limit or None,
    )
    if completed == 0:
        return complete(point)
    requests = benchmark.child("requests")
    # Counts the values before it reads them: the report may have a sample of the requests only.
    if completed and requests and len(requests.items("successful") or ()) == completed:
        return from_requests(point, [_request(r) for r in requests.objects("successful")])
    return complete(
        replace(
            point,
            input_tokens=metric("prompt_token_count"),
            output_tokens=metric("output_token_count"),
            ttft=metric("time_to_first_token_ms", 1e-3),
            itl=metric("inter_token_latency_ms", 1e-3),
            e2e=metric("request_latency"),
            notes=("The quantiles of TPS weight each request by its output tokens.",),
        )
    )


def _request(request: Fields) -> Request:
    def value(name: str, unit_s: float = 1.0) -> float | None:
        number = request.number(name, zero=True)
        return number * unit_s if number else None

    return Request(
        ttft=value("time_to_first_token_ms", 1e-3),
        e2e=value("request_latency"),
        itl=value("inter_token_latency_ms", 1e-3),
        input_tokens=value("prompt_tokens"),
        output_tokens=value("output_tokens"),
    )
