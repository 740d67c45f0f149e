"""Lifecycle metrics of inference-perf, one JSON file per stage. A stage is one load.

Times are in seconds. Its time_per_output_token is without the time to the first token.
"""

from collections.abc import Sequence
from dataclasses import replace

from sim_pipeline.fit.formats.fields import Fields
from sim_pipeline.fit.measurement import Distribution, LoadPoint, MeasurementError, complete


def recognises(documents: Sequence[object]) -> bool:
    """Return whether the first of ``documents`` is a file of inference-perf."""
    return isinstance(documents[0], dict) and {"load_summary", "successes"} <= documents[0].keys()


def read(source: str, documents: Sequence[object]) -> list[LoadPoint]:
    """Return the load point of a file, the first of ``documents``.

    Raises:
        MeasurementError: a field is invalid.
    """
    report = Fields(source, documents[0])
    load, successes = report.child("load_summary"), report.child("successes")
    if load is None or successes is None:
        raise MeasurementError(f"{source}: load_summary or successes is null: must be an object")
    failures, throughput = report.child("failures"), successes.child("throughput")
    completed = successes.count("count")
    point = LoadPoint(
        source=source,
        tool="inference-perf",
        completed=completed,
        failed=failures.count("count") if failures else None,
        duration_s=report.number("benchmark_time_seconds", zero=True) or None,
        rate=throughput.number("requests_per_sec", zero=True) or None if throughput else None,
        concurrency_limit=load.number("concurrency"),
    )

    def metric(*path: str) -> Distribution | None:
        fields = successes.child(*path)
        return fields.distribution(count=completed, zero=True) if fields else None

    point = replace(
        point,
        input_tokens=metric("prompt_tokens") or metric("prompt_len"),
        output_tokens=metric("output_tokens") or metric("output_len"),
        ttft=metric("latency", "time_to_first_token"),
        itl=metric("latency", "time_per_output_token"),
        e2e=metric("latency", "request_latency"),
    )
    if not load.has("requested_rate"):
        note = "It summarizes all stages: if there are several, give the files of the stages."
        point = replace(point, notes=(note,))
    return [complete(point)]
