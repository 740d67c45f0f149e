"""Results of LLMPerf: a file of all requests, and a summary that also has the rate.

LLMPerf's inter-token latency and throughput of a request include the time to its first token.
TPS is therefore computed from the latencies and the number of output tokens.
"""

from collections.abc import Sequence
from dataclasses import replace

from sim_pipeline.fit.formats.fields import Fields
from sim_pipeline.fit.measurement import (
    Distribution,
    LoadPoint,
    Request,
    complete,
    from_requests,
)

_RESPONSES, _SUMMARY = "LLMPerf responses", "LLMPerf summary"

_NO_QUANTILES = (
    "TPS has no quantiles, because LLMPerf's include the time to the first token: "
    "give the file of individual responses too."
)


def recognises(documents: Sequence[object]) -> bool:
    """Return whether the first of ``documents`` is a list of requests."""
    first = documents[0]
    return (
        isinstance(first, list)
        and bool(first)
        and isinstance(first[0], dict)
        and {"ttft_s", "end_to_end_latency_s"} <= first[0].keys()
    )


def read(source: str, documents: Sequence[object]) -> list[LoadPoint]:
    """Return the load point of a list of requests, the first of ``documents``.

    Raises:
        MeasurementError: a field is invalid.
    """
    rows = Fields(source, {"responses": documents[0]})
    requests = []
    failed = 0
    for row in rows.objects("responses"):
        if row.has("error_code"):
            failed += 1
            continue
        requests.append(
            Request(
                ttft=row.number("ttft_s", zero=True) or None,
                e2e=row.number("end_to_end_latency_s", zero=True) or None,
                input_tokens=row.number("number_input_tokens", zero=True),
                output_tokens=row.number("number_output_tokens", zero=True),
            )
        )
    return [from_requests(LoadPoint(source=source, tool=_RESPONSES, failed=failed), requests)]


def recognises_summary(documents: Sequence[object]) -> bool:
    """Return whether the first of ``documents`` is a summary."""
    return isinstance(documents[0], dict) and "results_ttft_s_mean" in documents[0]


def read_summary(source: str, documents: Sequence[object]) -> list[LoadPoint]:
    """Return the load point of a summary, the first of ``documents``.

    Its TPS has only a mean: that of the mean latencies and output tokens.

    Raises:
        MeasurementError: a field is invalid.
    """
    summary = Fields(source, documents[0])
    completed = summary.count("results_num_completed_requests")
    per_minute = summary.number("results_num_completed_requests_per_min", zero=True)

    def metric(name: str) -> Distribution | None:
        return summary.distribution(
            prefix=f"results_{name}_quantiles_", mean=f"results_{name}_mean", count=completed
        )

    point = LoadPoint(
        source=source,
        tool=_SUMMARY,
        version=summary.text("version"),
        completed=completed,
        failed=summary.count("results_number_errors"),
        rate=per_minute / 60 if per_minute else None,
        concurrency_limit=summary.number("num_concurrent_requests"),
    )
    if completed == 0:  # the mean values are NaN then
        return [complete(point)]
    ttft, e2e = metric("ttft_s"), metric("end_to_end_latency_s")
    output_tokens = metric("number_output_tokens")
    mean = Request(
        ttft=ttft.mean if ttft else None,
        e2e=e2e.mean if e2e else None,
        output_tokens=output_tokens.mean if output_tokens else None,
    ).time_per_token
    point = replace(
        point,
        input_tokens=metric("number_input_tokens"),
        output_tokens=output_tokens,
        ttft=ttft,
        e2e=e2e,
        tps=Distribution({}, 1 / mean, completed) if mean and mean > 0 else None,
        notes=(_NO_QUANTILES,),
    )
    return [complete(point)]


def join(points: Sequence[LoadPoint]) -> list[LoadPoint]:
    """Return ``points`` with each summary merged into the responses of the same run.

    The names of the two files differ in ``_summary`` and ``_individual_responses``.
    """
    summaries = {point.source: point for point in points if point.tool == _SUMMARY}
    joined = {}
    for point in points:
        name = point.source.replace("_individual_responses", "_summary")
        if point.tool == _RESPONSES and name in summaries:
            joined[name] = complete(
                replace(
                    point,
                    version=summaries[name].version,
                    duration_s=summaries[name].duration_s,
                    rate=summaries[name].rate,
                    concurrency_limit=summaries[name].concurrency_limit,
                )
            )
    return [
        joined.get(point.source.replace("_individual_responses", "_summary"), point)
        for point in points
        if point.source not in joined
    ]
