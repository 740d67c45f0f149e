"""The recognition of formats, and the errors for invalid and arbitrary content."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim_pipeline.fit.measurement import MeasurementError
from sim_pipeline.fit.reading import CSV_FORMATS, JSON_FORMATS, read_measurements
from sim_pipeline_tests.fit.samples import SAMPLES, load_sample

FILES = sorted(path for path in SAMPLES.iterdir() if path.suffix in (".csv", ".json", ".jsonl"))


def error_of(path: Path) -> str:
    """Return the error's message without the file."""
    with pytest.raises(MeasurementError) as caught:
        read_measurements([path])
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


# Recognition


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_content_decides_the_format(tmp_path: Path, path: Path) -> None:
    copy = tmp_path / "file"
    shutil.copy(path, copy)
    here, there = read_measurements([copy]), read_measurements([path])
    assert [point.tool for point in here] == [point.tool for point in there]
    assert [point.ttft for point in here] == [point.ttft for point in there]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_one_format_recognises_a_sample(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".csv":
        rows = [line.split(",") for line in text.splitlines()]
        names = [f.name for f in CSV_FORMATS if f.recognises(rows)]
        # An export of AIPerf also has metrics and quantiles: the order decides.
        assert names[0].startswith("AIPerf") == (path.stem in ("aiperf", "genai_perf"))
        return
    documents = (
        [json.loads(line) for line in text.splitlines()]
        if path.suffix == ".jsonl"
        else [json.loads(text)]
    )
    assert len([f.name for f in JSON_FORMATS if f.recognises(documents)]) == 1


# Errors


def change(**fields: object) -> Callable[[Any], None]:
    return lambda document: document.update(fields)


def at(*path: str | int, value: object) -> Callable[[Any], None]:
    def edit(document: Any) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("vllm_summary.json", change(median_ttft_ms=-3),
         "median_ttft_ms is -3: must be a number > 0"),
        ("vllm_summary.json", change(mean_ttft_ms=float("nan")),
         "mean_ttft_ms is nan: must be a number > 0"),
        ("vllm_summary.json", change(p99_tpot_ms="fast"),
         "p99_tpot_ms is 'fast': must be a number >= 0"),
        ("vllm_summary.json", change(p75_ttft_ms=True),
         "p75_ttft_ms is True: must be a number > 0"),
        ("vllm_summary.json", change(duration=10**400),
         f"duration is 1{'0' * 59}...: must be a number > 0"),
        ("vllm_summary.json", change(p99_ttft_ms=250.0),
         "p99_ttft_ms is 250: must not be less than 300, the quantile below it"),
        ("vllm_summary.json", change(completed=1.5),
         "completed is 1.5: must be a whole number >= 0"),
        ("vllm_summary.json", change(completed=0, mean_ttft_ms=0.0, median_ttft_ms=0.0),
         "completed requests are 0: must be 1 or more"),
        ("vllm_summary.json",
         change(**{f"{s}_ttft_ms": 4e6 for s in ("median", "p75", "p99", "p99.9")}),
         "the median ttft is 4000 s: must be 0.0001 to 3600 s; check the unit"),
        ("vllm_detailed.json", change(output_lens=[11, 21]),
         "output_lens has 2 values: must have as many as ttfts, 4"),
        ("vllm_detailed.json", change(itls=[[0.02]]),
         "itls has 1 values: must have as many as ttfts, 4"),
        ("vllm_detailed.json", at("itls", 1, value=0.1), "itls[1] is 0.1: must be a list"),
        ("vllm_detailed.json", at("itls", 0, 2, value=None),
         "itls[0][2] is None: must be a number >= 0"),
        ("vllm_detailed.json", at("ttfts", 2, value=-1), "ttfts[2] is -1: must be a number >= 0"),
        ("vllm_detailed.json", change(ttfts="none"), "ttfts is 'none': must be a list"),
        ("vllm_detailed.json", change(output_lens=[0, 0, 0, 0]),
         "completed requests are 0: must be 1 or more"),
        ("aiperf.json", at("time_to_first_token", "unit", value="fortnight"),
         "time_to_first_token.unit is 'fortnight': must be one of ns, us, "),
        ("aiperf.json", change(time_to_first_token=5),
         "time_to_first_token is 5: must be an object"),
        ("aiperf.json", change(time_to_first_token=None, inter_token_latency=None,
                               output_token_throughput_per_user=None),
         "has neither a time to first token nor tokens per second: measure with streaming"),
        ("guidellm.json", change(benchmarks=[]),
         "benchmarks is a list of 0: must have a benchmark"),
        ("guidellm.json", at("benchmarks", 1, value="x"),
         "benchmarks[1] is 'x': must be an object"),
        ("guidellm.json", at("benchmarks", 1, "metrics", value=None),
         "benchmarks[1].metrics is missing: must be an object"),
        ("guidellm.json", at("benchmarks", 0, "requests", "successful", 2, "prompt_tokens",
                             value=[]),
         "benchmarks[0].requests.successful[2].prompt_tokens is a list of 0: must be a number"),
        ("guidellm.json", at("benchmarks", 1, "metrics", "request_totals", "successful", value=0),
         "benchmarks[1]: completed requests are 0: must be 1 or more"),
        ("example_550_150_individual_responses.json", at(2, "ttft_s", value="0.5"),
         "responses[2].ttft_s is '0.5': must be a number >= 0"),
        ("example_550_150_summary.json", change(results_num_completed_requests=0),
         "completed requests are 0: must be 1 or more"),
        ("stage_0_lifecycle_metrics.json", change(load_summary=None),
         "load_summary or successes is null: must be an object"),
        ("stage_0_lifecycle_metrics.json", at("successes", "latency", "time_to_first_token", "p10",
                                              value=-1),
         "successes.latency.time_to_first_token.p10 is -1: must be a number >= 0"),
        ("stage_0_lifecycle_metrics.json", at("successes", "count", value=0),
         "completed requests are 0: must be 1 or more"),
    ],
)  # fmt: skip
def test_invalid_fields(
    tmp_path: Path, name: str, edit: Callable[[Any], None], message: str
) -> None:
    document = load_sample(name)
    edit(document)
    (path := tmp_path / "r.json").write_text(json.dumps(document), encoding="utf-8")
    assert error_of(path).startswith(message)


_NO_JSON_FORMAT = (
    "no format fits: expected one of vLLM bench serve, AIPerf or GenAI-Perf, AIPerf records, "
    "GuideLLM, LLMPerf responses, LLMPerf summary, inference-perf; it has "
)
_NO_CSV_FORMAT = (
    "no format fits: expected one of AIPerf or GenAI-Perf, quantiles (metric, p50, ...), "
    "requests (ttft_ms, tps, ...); it has "
)
_UNKNOWN_UNIT = (
    "ttft has no unit, and its median 42 could be in s or in ms: name it ttft_s or ttft_ms"
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf \n", "is empty"),
        (b"\x89PNG\r\n\x1a\n\x00", "is not text in UTF-8"),
        (b'{"completed": 3, "dur', "line 1 is not valid JSON: Unterminated string starting at"),
        (b'{"a": 1}\n{"b": }\n', "line 2 is not valid JSON: Expecting value"),
        (b"[" * 100_000, "line 1 is not valid JSON: maximum recursion depth exceeded"),
        (b"[" + b"1" * 5000 + b"]", "line 1 is not valid JSON: Exceeds the limit (4300 digits)"),
        (b'{"a": 1, "b c": 2}', _NO_JSON_FORMAT + "the fields a, 'b c'"),
        (b"[]", "no format fits"),
        (b"model,score\nA,1\n", _NO_CSV_FORMAT + "the columns model, score"),
        (b"3", "no format fits"),
        (b"ttft_ms,tps\n", "has no rows below the header: must have one"),
        (b"ttft_ms,tps\n400,fast\n", "row 2: tps is 'fast': must be a number >= 0"),
        (b"ttft_ms,tps\n400,nan\n", "row 2: tps is 'nan': must be a number >= 0"),
        (b"ttft_ms,tps\n400,5,6\n", "row 2 has 3 cells: must have 2, as the header"),
        (b"ttft_ms,ttft_s\n400,5\n", "the columns ttft_ms and ttft_s are both ttft: must be one"),
        (b"ttft_ms,x,x\n400,5,6\n", "there are two columns 'x': must be one"),
        (b"ttft,tps\n42,50\n", _UNKNOWN_UNIT),
        (b"ttft_ms,success\n400,maybe\n", "row 2: success is 'maybe': must be true or false"),
        (b"ttft_ms,timestamp\n400,soon\n", "row 2: timestamp is 'soon': must be a number >= 0"),
        (b"ttft_ms,error\n,timeout\n", "completed requests are 0: must be 1 or more"),
        (b'ttft_ms,error\n400,"' + b"x" * 200_000 + b'"\n', "is not valid CSV: field larger than"),
        (b"metric,p50\nlatency of cats,3\n", "row 2: metric is 'latency of cats': must be one"),
        (b"metric,p50\nttft_ms,300\nTTFT (s),1\n", "row 3: metric TTFT (s) is given twice"),
        (b"metric,unit,p50\nttft_ms,s,300\n", "row 2: unit is 's': must be ms for ttft_ms"),
        (b"metric,unit,p50\nttft,h,300\n", "row 2: unit is 'h': must be s or ms for ttft"),
        (b"metric,p50\nttft,\n", "row 2: ttft has no value: must have a quantile"),
        (b"metric,p50\nttft,20\n", "row 2: ttft has no unit, and its median 20 could be in s or"),
        (b"metric,p25,p50\nttft_ms,300,200\n", "row 2: p50 is 200: must not be less than 300"),
        (b"Metric,avg,p50\nTime to First Token (ms),abc,3\n",
         "time_to_first_token.avg is 'abc': must be a number >= 0"),
    ],
)  # fmt: skip
def test_invalid_files(tmp_path: Path, content: bytes, message: str) -> None:
    (path := tmp_path / "x").write_bytes(content)
    assert error_of(path).startswith(message)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert error_of(tmp_path / "missing.json") == "cannot be read: No such file or directory"
    assert error_of(tmp_path) == "cannot be read: Is a directory"


# Any content

_NAMES = st.sampled_from(
    ["completed", "request_throughput", "ttfts", "output_lens", "itls", "errors", "mean_ttft_ms",
     "median_tpot_ms", "duration", "aiperf_version", "time_to_first_token", "unit", "avg", "p50",
     "p99", "metadata", "metrics", "value", "benchmarks", "requests", "successful", "percentiles",
     "request_totals", "time_to_first_token_ms", "config", "strategy", "streams", "ttft_s",
     "end_to_end_latency_s", "number_output_tokens", "results_ttft_s_mean", "load_summary",
     "successes", "latency", "count", "input_config", "loadgen", "concurrency", "phases"]
)  # fmt: skip
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["ms", "s", "", "5"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_NAMES, inner, max_size=8),
    max_leaves=25,
)
_HEADER = st.sampled_from(
    ["ttft", "ttft_ms", "tps", "itl", "e2e_s", "output_tokens", "metric", "p50", "p5", "unit",
     "rate", "timestamp", "error", "success", "mean", "Metric", "avg", "requests", "x"]
)  # fmt: skip
_CELL = st.sampled_from(
    ["", "0", "1", "350", "-1", "nan", "inf", "1e300", "1e-320", "ttft", "TPS", "ms", "true",
     "Time to First Token (ms)", "Request Count", "2026-11-01T10:00:00Z", "0001-01-01", '"', "\x00"]
)  # fmt: skip


def _table(rows: list[list[str]]) -> bytes:
    return "\n".join(",".join(row) for row in rows).encode()


def _mutated(name: str) -> st.SearchStrategy[bytes]:
    """Return a sample with one of its values replaced by any JSON value."""
    text = (SAMPLES / name).read_text(encoding="utf-8")
    spots = [i for i, character in enumerate(text) if character == ":"]

    def replace(spot: int, value: Any) -> bytes:
        end = min(i for i in (text.find(c, spot) for c in ",}]") if i >= 0)
        return f"{text[: spot + 1]}{json.dumps(value)}{text[end:]}".encode()

    return st.builds(replace, st.sampled_from(spots), _JSON)


_JSON_SAMPLES = sorted(path.name for path in SAMPLES.glob("*.json*"))


@settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    content=st.binary(max_size=60)
    | _JSON.map(lambda value: json.dumps(value).encode())
    | st.lists(_JSON, max_size=3).map(lambda rows: b"\n".join(json.dumps(r).encode() for r in rows))
    | st.sampled_from(_JSON_SAMPLES).flatmap(_mutated)
    | st.lists(st.lists(_CELL | _HEADER, max_size=5), max_size=5).map(_table)
    | st.tuples(
        st.lists(_HEADER, min_size=1, max_size=5, unique=True),
        st.lists(st.lists(_CELL, max_size=5), max_size=5),
    ).map(lambda parts: _table([parts[0], *parts[1]]))
)
def test_any_content_gives_a_result_or_a_measurement_error(tmp_path: Path, content: bytes) -> None:
    (path := tmp_path / "any").write_bytes(content)
    try:
        points = read_measurements([path])
    except MeasurementError:
        error_of(path)
    else:
        assert points
        assert all(point.ttft or point.tps for point in points)
