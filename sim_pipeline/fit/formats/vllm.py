"""Results of ``vllm bench serve`` (earlier: ``benchmark_serving.py``), one JSON object per load.

With ``--append-result``, a file has one object per line. With ``--save-detailed``, an object has
lists of what each request measured. Percentiles of the summary are those of --metric-percentiles.
"""

from collections.abc import Sequence
from dataclasses import replace

from sim_pipeline.fit.formats.fields import Fields, numbers, shown
from sim_pipeline.fit.measurement import (
    Distribution,
    LoadPoint,
    MeasurementError,
    Request,
    complete,
    from_requests,
)


def recognises(documents: Sequence[object]) -> bool:
    """Return whether the first of ``documents`` is a result of vLLM."""
    first = documents[0]
    return isinstance(first, dict) and {"completed", "request_throughput"} <= first.keys()


def read(source: str, documents: Sequence[object]) -> list[LoadPoint]:
    """Return one load point for each of ``documents``.

    Raises:
        MeasurementError: a field is invalid.
    """
    if len(documents) == 1:
        return [_load_point(source, Fields(source, documents[0]))]
    return [
        _load_point(where, Fields(where, document))
        for where, document in ((f"{source}: result {n}", d) for n, d in enumerate(documents, 1))
    ]


def _load_point(source: str, result: Fields) -> LoadPoint:
    completed = result.count("completed")
    point = LoadPoint(
        source=source,
        tool="vLLM",
        completed=completed,
        failed=result.count("failed"),
        duration_s=result.number("duration"),
        concurrency_limit=result.number("max_concurrency"),
    )
    if completed == 0:  # the mean values are 0 then
        return complete(point)
    if result.has("ttfts", "output_lens"):
        return _from_lists(point, result)

    def metric(name: str, *, zero: bool = False) -> Distribution | None:
        return result.distribution(
            suffix=f"_{name}_ms", mean=f"mean_{name}_ms", unit_s=1e-3, count=completed, zero=zero
        )

    def tokens(name: str) -> Distribution | None:
        total = result.number(name, zero=True)
        return Distribution({}, total / completed, completed) if total and completed else None

    return complete(
        replace(
            point,
            input_tokens=tokens("total_input_tokens"),
            output_tokens=tokens("total_output_tokens"),
            ttft=metric("ttft"),
            itl=metric("tpot", zero=True),  # 0 if no answer has two tokens
            e2e=metric("e2el"),
        )
    )


def _from_lists(point: LoadPoint, result: Fields) -> LoadPoint:
    ttfts = result.numbers("ttfts") or []
    latencies = result.numbers("latencies")
    if latencies is None and (gaps := result.items("itls")) is not None:
        _check_length(result, "itls", gaps, ttfts)
        latencies = [
            ttft + sum(_numbers(f"{result.path('itls')}[{index}]", values))
            for index, (ttft, values) in enumerate(zip(ttfts, gaps, strict=True))
        ]
    input_lens, output_lens = result.numbers("input_lens"), result.numbers("output_lens")
    errors = result.items("errors")
    for name, values in (
        ("latencies", latencies),
        ("input_lens", input_lens),
        ("output_lens", output_lens),
        ("errors", errors),
    ):
        if values is not None:
            _check_length(result, name, values, ttfts)
    absent = [None] * len(ttfts)
    requests = [
        Request(
            ttft=ttft or None,
            e2e=e2e or None,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
        )
        for ttft, e2e, input_tokens, output_tokens, error in zip(
            ttfts,
            latencies or absent,
            input_lens or absent,
            output_lens or absent,
            errors or absent,
            strict=True,
        )
        if output_tokens and not error
    ]
    return from_requests(replace(point, failed=len(ttfts) - len(requests)), requests)


def _check_length(
    result: Fields, name: str, values: Sequence[object], ttfts: Sequence[float]
) -> None:
    if len(values) != len(ttfts):
        raise MeasurementError(
            f"{result.path(name)} has {len(values)} values: must have as many as ttfts, "
            f"{len(ttfts)}"
        )


def _numbers(where: str, values: object) -> list[float]:
    if not isinstance(values, list):
        raise MeasurementError(f"{where} is {shown(values)}: must be a list")
    return numbers(where, values)
