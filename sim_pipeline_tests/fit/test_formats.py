"""What is read from the sample of each tool and variant. The expected values are worked by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from sim_pipeline.fit.measurement import Distribution, LoadPoint
from sim_pipeline.fit.reading import read_measurements
from sim_pipeline_tests.fit.samples import SAMPLES, load_sample


def close(value: object, rel: float = 1e-6) -> Any:
    """Compare equal to numbers that differ from ``value`` by rounding only."""
    return pytest.approx(value, rel=rel)


def sample(name: str) -> LoadPoint:
    """Return the only load point of a sample."""
    (point,) = read_measurements([SAMPLES / name])
    return point


def known(distribution: Distribution | None) -> Distribution:
    assert distribution is not None
    return distribution


# vLLM


def test_vllm_summary() -> None:
    point = sample("vllm_summary.json")
    assert (point.tool, point.completed, point.failed) == ("vLLM", 198, 2)
    assert (point.duration_s, point.rate, point.concurrency_limit) == (50, close(3.96), 16)
    assert known(point.ttft).quantiles == close(
        {0.25: 0.15, 0.5: 0.2, 0.75: 0.3, 0.99: 0.9, 0.999: 1.0}
    )
    assert (known(point.ttft).mean, known(point.ttft).count) == (close(0.25), 198)
    # TPS is the reciprocal of TPOT, so its low quantiles come from the high ones of TPOT.
    assert known(point.tps).quantiles == close(
        {0.001: 12.5, 0.01: 20, 0.25: 31.25, 0.5: 40, 0.75: 50}
    )
    assert known(point.tps).mean is None
    assert (known(point.input_tokens).mean, known(point.output_tokens).mean) == (512, 128)
    # e2e is not in the file: 0.25 s + 127 * 0.026 s.
    assert point.concurrency == close(3.96 * 3.552)


def test_vllm_lists_of_requests() -> None:
    point = sample("vllm_detailed.json")
    assert (point.completed, point.failed) == (3, 1)
    assert known(point.ttft).samples == (0.2, 0.4, 0.3)
    assert known(point.e2e).samples == close((0.4, 0.9, 0.5))
    assert known(point.tps).samples == close((50, 40, 25))
    assert known(point.tps).quantiles[0.5] == close(40)
    assert known(point.input_tokens).samples == (100, 200, 300)
    assert known(point.output_tokens).mean == close(38 / 3)
    assert (point.rate, point.concurrency) == (close(0.3), close(0.18))


def test_vllm_prefers_measured_latencies(tmp_path: Path) -> None:
    result = load_sample("vllm_detailed.json")
    result["latencies"] = [0.4, 1.4, 0.1, 0.5]
    (path := tmp_path / "r.json").write_text(json.dumps(result), encoding="utf-8")
    (point,) = read_measurements([path])
    assert known(point.tps).samples == close((50, 20, 25))


def test_vllm_appended_results() -> None:
    first, second = read_measurements([SAMPLES / "vllm_append.jsonl"])
    assert first.source == f"{SAMPLES / 'vllm_append.jsonl'}: result 1"
    assert (first.rate, second.rate) == (close(3.96), close(7.92))
    assert known(second.ttft).quantiles == close({0.5: 0.4, 0.99: 1.8})
    assert (first.failed, first.concurrency_limit) == (None, None)


# AIPerf and GenAI-Perf


@pytest.mark.parametrize(
    ("name", "version", "failed"),
    [
        ("aiperf.json", "0.13.0", 5),
        ("aiperf.csv", None, 5),
        ("genai_perf.json", None, None),
        ("genai_perf.csv", None, None),
    ],
)
def test_aiperf_summaries(name: str, version: str | None, failed: int | None) -> None:
    point = sample(name)
    assert (point.version, point.completed, point.failed) == (version, 500, failed)
    assert (point.rate, point.duration_s) == (2.5, close(200))
    assert known(point.ttft).quantiles == close(
        {0.01: 0.1, 0.05: 0.11, 0.1: 0.12, 0.25: 0.15, 0.5: 0.2, 0.75: 0.26, 0.9: 0.35, 0.95: 0.42,
         0.99: 0.8}
    )  # fmt: skip
    assert (known(point.tps).quantiles[0.25], known(point.tps).mean) == (40, 52)
    assert known(point.itl).quantiles[0.95] == close(0.04)
    assert known(point.e2e).mean == close(2.2)
    assert (known(point.input_tokens).mean, known(point.output_tokens).mean) == (512, 90)
    assert point.concurrency == close(2.5 * 2.2)
    assert point.concurrency_limit == (6 if name.endswith("json") else None)


def test_aiperf_counts_only_requests_with_the_metric() -> None:
    point = sample("aiperf.json")
    assert (known(point.ttft).count, known(point.itl).count) == (500, 490)


def test_aiperf_says_that_a_run_is_incomplete(tmp_path: Path) -> None:
    export = load_sample("aiperf.json") | {"is_complete": False}
    (path := tmp_path / "a.json").write_text(json.dumps(export), encoding="utf-8")
    (point,) = read_measurements([path])
    assert point.notes == ("The run ended before it was complete.",)


def test_aiperf_records() -> None:
    point = sample("aiperf_records.jsonl")
    # Without the warm-up, an error and a cancelled request.
    assert (point.completed, point.failed) == (4, 2)
    assert known(point.ttft).samples == close((0.2, 0.3, 0.4, 0.5))
    # One answer has one token, and therefore no TPS.
    assert known(point.tps).samples == close((50, 40, 20))
    # From 10 s to 18 s + 2 s.
    assert point.duration_s == close(10)
    assert point.rate == close(0.4)


# GuideLLM


def test_guidellm_uses_all_requests_of_a_benchmark() -> None:
    point, _ = read_measurements([SAMPLES / "guidellm.json"])
    assert point.source == f"{SAMPLES / 'guidellm.json'}: benchmarks[0]"
    assert (point.version, point.completed, point.failed) == ("0.8.1", 4, 0)
    assert known(point.ttft).samples == close((0.1, 0.2, 0.3, 0.4))
    assert known(point.tps).samples == close((50, 40, 25))
    assert known(point.output_tokens).samples == (51, 41, 26, 1)
    assert (point.rate, point.concurrency, point.concurrency_limit) == (1, close(1), 1)
    assert point.notes == ()


def test_guidellm_uses_the_summary_if_it_has_a_sample_of_requests() -> None:
    _, point = read_measurements([SAMPLES / "guidellm.json"])
    assert (point.completed, point.failed, point.duration_s, point.rate) == (80, 5, 20, 4)
    assert known(point.ttft).quantiles[0.001] == close(0.09)
    assert known(point.ttft).quantiles[0.999] == close(0.7)
    assert known(point.ttft).mean == close(0.21)
    assert known(point.tps).quantiles[0.5] == close(40)
    assert known(point.tps).quantiles[0.05] == close(1 / 0.034)
    assert (known(point.ttft).count, known(point.e2e).mean) == (80, 2)
    assert (point.concurrency, point.concurrency_limit) == (close(8), 64)
    assert point.notes == ("The quantiles of TPS weight each request by its output tokens.",)


def test_guidellm_0_3() -> None:
    point = sample("guidellm_0_3.json")
    assert (point.version, point.completed, point.failed) == ("0.3.0", 80, 1)
    assert (point.rate, point.concurrency_limit) == (4, 8)
    assert known(point.ttft).quantiles[0.5] == close(0.2)
    assert known(point.input_tokens).mean == 256


# LLMPerf


def test_llmperf_responses() -> None:
    point = sample("example_550_150_individual_responses.json")
    assert (point.completed, point.failed, point.rate) == (3, 1, None)
    assert known(point.ttft).samples == (0.5, 0.6, 0.7)
    # 50 tokens in 2 s and in 2.5 s, 100 tokens in 4 s.
    assert known(point.tps).samples == close((25, 20, 25))


def test_llmperf_summary() -> None:
    point = sample("example_550_150_summary.json")
    assert (point.version, point.completed, point.failed) == ("2023-08-31", 3, 1)
    assert (point.rate, point.duration_s, point.concurrency_limit) == (0.5, 6, 2)
    assert known(point.ttft).quantiles[0.95] == close(0.69)
    # Not the file's own 19.4, which includes TTFT: 66.7 tokens in 3.434 - 0.6 s.
    assert known(point.tps) == Distribution({}, close(66.7 / 2.834), 3)
    assert len(point.notes) == 1
    assert "TPS has no quantiles" in point.notes[0]


def test_llmperf_merges_the_two_files_of_a_run() -> None:
    responses = SAMPLES / "example_550_150_individual_responses.json"
    summary = SAMPLES / "example_550_150_summary.json"
    for paths in ([responses, summary], [summary, responses]):
        (point,) = read_measurements(paths)
        assert point.source == str(responses)
        assert (point.rate, point.duration_s, point.concurrency_limit) == (0.5, 6, 2)
        assert known(point.tps).samples == close((25, 20, 25))
        assert point.concurrency == close(0.5 * 10.3 / 3)


# inference-perf


def test_inference_perf_stage() -> None:
    point = sample("stage_0_lifecycle_metrics.json")
    assert (point.completed, point.failed, point.rate) == (590, 10, 9.5)
    assert point.duration_s == close(590 / 9.5)
    assert known(point.ttft).quantiles == close({0.1: 0.06, 0.5: 0.09, 0.9: 0.16})
    assert known(point.tps).quantiles == close({0.1: 40, 0.5: 50, 0.9: 80})
    assert (known(point.input_tokens).mean, known(point.output_tokens).mean) == (200, 101)
    assert (point.concurrency, point.concurrency_limit, point.notes) == (19, None, ())


def test_inference_perf_with_token_usage() -> None:
    point = sample("stage_1_lifecycle_metrics.json")
    assert (point.duration_s, point.concurrency_limit) == (62, 32)
    assert list(known(point.ttft).quantiles)[:3] == [0.001, 0.01, 0.05]
    assert known(point.ttft).quantiles[0.999] == close(0.39)
    assert known(point.input_tokens).quantiles[0.5] == 150


def test_inference_perf_notes() -> None:
    summary, tokens = sample("summary_lifecycle_metrics.json").notes
    assert "summarizes all stages" in summary
    assert tokens == (
        "The mean time per token is 0.009 s, but latency, TTFT and output tokens give 0.019 s; "
        "the tool may count tokens differently."
    )


# CSV


def test_quantiles_csv() -> None:
    first, second = read_measurements([SAMPLES / "quantiles.csv"])
    assert (first.source, first.rate) == (f"{SAMPLES / 'quantiles.csv'}: rate 2", 2)
    assert (first.completed, second.completed) == (400, 1000)
    assert known(first.ttft).quantiles == close(
        {0.05: 0.18, 0.25: 0.25, 0.5: 0.35, 0.75: 0.48, 0.95: 0.9}
    )
    assert known(first.tps).quantiles[0.05] == 40
    assert known(first.itl).quantiles[0.95] == close(1 / 40)
    assert known(second.ttft).quantiles[0.5] == close(0.5)
    assert known(second.tps).quantiles == close({0.05: 20, 0.25: 40, 0.5: 50, 0.75: 80, 0.95: 100})


def test_requests_csv() -> None:
    point = sample("requests.csv")
    assert (point.completed, point.failed) == (4, 1)
    assert known(point.ttft).samples == close((0.2, 0.4, 0.3, 0.5))
    assert known(point.tps).samples == close((50, 25, 40))
    assert known(point.input_tokens).mean == 525
    # From 0 s to 8 s + 2 s; e2e is 5.9 s in sum.
    assert (point.duration_s, point.rate) == (close(10), close(0.4))
    assert point.concurrency == close(0.59)


@pytest.mark.parametrize(
    ("text", "ttft", "tps"),
    [
        ("ttft,tps\n350,50\n450,50\n", 0.4, 50),
        ("TTFT;TPS\n0.35;50\n0.45;50\n", 0.4, 50),
        ("ttft_s\ttokens_per_second\n0.4\t50\n", 0.4, 50),
        ("Time to First Token (ms),Inter Token Latency (ms)\n400,20\n", 0.4, 50),
        ("ttft_us,itl\n400000,0.02\n", 0.4, 50),
        ("ttft [ms],tpot\n400,20\n", 0.4, 50),
        ('"ttft_ms",request_latency,completion_tokens\r\n400,1.4,51\r\n', 0.4, 50),
        ("\ufeffttft_ms,tps\n400,50\n\n", 0.4, 50),
    ],
)
def test_units_and_names_of_columns(tmp_path: Path, text: str, ttft: float, tps: float) -> None:
    (path := tmp_path / "x.csv").write_text(text, encoding="utf-8", newline="")
    (point,) = read_measurements([path])
    assert known(point.ttft).quantiles[0.5] == close(ttft)
    assert known(point.tps).quantiles[0.5] == close(tps)


@pytest.mark.parametrize(
    ("times", "duration_s"),
    [(("0", "3.5"), 4.5), (("1800000000000", "1800000003500"), 4.5),
     (("2026-11-01T10:00:00", "2026-11-01T12:00:03.5+02:00"), 4.5)],
)  # fmt: skip
def test_time_stamps(tmp_path: Path, times: tuple[str, str], duration_s: float) -> None:
    rows = "".join(f"{time},400,1000,31\n" for time in times)
    path = tmp_path / "x.csv"
    path.write_text(f"timestamp,ttft_ms,e2e_ms,output_tokens\n{rows}", encoding="utf-8")
    (point,) = read_measurements([path])
    assert point.duration_s == close(duration_s, rel=1e-5)


def test_loads_of_a_requests_csv(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(
        "concurrency,ttft_ms,e2e_ms,output_tokens,success\n"
        "1,400,1000,31,true\n8,900,2000,31,yes\n8,800,2000,31,false\n",
        encoding="utf-8",
    )
    first, second = read_measurements([path])
    assert (first.source, second.source) == (f"{path}: concurrency 1", f"{path}: concurrency 8")
    assert (second.completed, second.failed) == (1, 1)
    # Little's law gives the rate.
    assert (first.rate, second.rate) == (close(1), close(4))
