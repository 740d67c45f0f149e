"""The formats of alarms, and the errors for invalid content."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim_pipeline.metrics import METRICS
from sim_pipeline.scoring.reading import ScoringError, read_alarms
from sim_pipeline.scoring.score import ANY_METRIC, Alarm

MODELS = ("GPT-4o", "Llama, 8B")
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def read(text: str | bytes) -> list[Alarm]:
    return read_alarms("a.csv", text.encode() if isinstance(text, str) else text, llm_names=MODELS)


def error_of(text: str | bytes) -> str:
    with pytest.raises(ScoringError) as caught:
        read(text)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("a.csv: ")
    return message.removeprefix("a.csv: ")


@pytest.mark.parametrize(
    "text",
    [
        "model,metric,time\nGPT-4o,TPS,2026-11-24T12:00:00Z\n",
        "timestamp;score;metric;llm_name\r\n2026-11-24T13:00+01:00;3.2;TPS;GPT-4o\r\n",
        "\ufeff\nmodel\tmetric\ttime\n\n GPT-4o\tTPS\t2026-11-24 12:00 \n\n",
        '{"model": "GPT-4o", "metric": "TPS", "time": "2026-11-24T12:00:00Z", "score": [1]}',
        '\n\n{"llm_name": "GPT-4o", "metric": "TPS", "timestamp": "2026-11-24T12:00"}\n\n',
    ],
    ids=["csv", "semicolons", "tabs", "json", "blank lines"],
)
def test_each_format_gives_the_same_alarm(text: str) -> None:
    assert read(text) == [Alarm("GPT-4o", "TPS", NOON)]


@pytest.mark.parametrize(
    "text",
    [
        'model,time\n"Llama, 8B",2026-11-24T12:00\n',
        'model,time,metric\n"Llama, 8B",2026-11-24T12:00,\n',
        'model,time,metric\n"Llama, 8B",2026-11-24T12:00\n',
        '{"model": "Llama, 8B", "time": "2026-11-24T12:00"}',
        '{"model": "Llama, 8B", "time": "2026-11-24T12:00", "metric": null}',
        '{"model": "Llama, 8B", "time": "2026-11-24T12:00", "metric": ""}',
    ],
)
def test_missing_metric_is_any(text: str) -> None:
    assert read(text) == [Alarm("Llama, 8B", ANY_METRIC, NOON)]


def test_alarms_are_in_the_order_of_the_file() -> None:
    lines = ["model,time", *(f"GPT-4o,2026-11-{day:02}" for day in (3, 1, 2))]
    assert [alarm.time.day for alarm in read("\n".join(lines))] == [3, 1, 2]


def test_header_alone_is_no_alarm() -> None:
    assert read("model,metric,time\n") == []


MODEL_ALLOWED = "must be one of GPT-4o, Llama, 8B"
METRIC_ALLOWED = f"must be one of {', '.join(METRICS)}, or empty for any"
TIME_ALLOWED = (
    "must be an ISO 8601 date or time, UTC unless it names its zone, such as 2026-01-01 or"
    " 2026-01-01T06:00:00Z"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: must have alarms as CSV or JSON lines"),
        ("\ufeff \n", "is empty: must have alarms as CSV or JSON lines"),
        (b"\xff\xfe", "is not text in UTF-8"),
        ("model,time\nGPT-4o,2026-11-24\ngpt-4o,2026-11-24\n",
         f"line 3: model is 'gpt-4o': {MODEL_ALLOWED}"),
        ("llm_name,time\n,2026-11-24\n", f"line 2: llm_name is '': {MODEL_ALLOWED}"),
        ("model,time,metric\nGPT-4o,2026-11-24,tps\n",
         f"line 2: metric is 'tps': {METRIC_ALLOWED}"),
        ("model,time\n\nGPT-4o,noon\n", f"line 3: time is 'noon': {TIME_ALLOWED}"),
        ('model,time,note\nGPT-4o,2026-11-24,"a\nb"\nGPT-4o,,\n',
         f"line 4: time is '': {TIME_ALLOWED}"),
        ("model,time\nGPT-4o\n",
         "line 2 has the columns 'model': must have one of time, timestamp"),
        ("model,time\nGPT-4o,2026-11-24,TPS\n", "line 2 has 3 cells: must have 2, as the header"),
        ("GPT-4o,2026-11-24\n",
         "line 1 has the columns 'GPT-4o', '2026-11-24': must have one of model, llm_name"),
        ("model,when\n",
         "line 1 has the columns 'model', 'when': must have one of time, timestamp"),
        ("model,llm_name,time\n",
         ("line 1 has the columns 'model', 'llm_name', 'time': "
          "must have one of model, llm_name, not both")),
        ('model,time\n"GPT-4o,2026-11-24', "line 2 is not valid CSV: unexpected end of data"),
        ('{"model": "GPT-4o", "time": "2026-11-24"}\n{"model": "x"',
         "line 2 is not valid JSON: Expecting ',' delimiter"),
        ('{"model": 4, "time": "2026-11-24"}', f"line 1: model is 4: {MODEL_ALLOWED}"),
        ('{"model": ["GPT-4o"], "time": "2026-11-24"}',
         f"line 1: model is a list of 1: {MODEL_ALLOWED}"),
        ('{"model": "GPT-4o", "time": 1795478400}', f"line 1: time is 1795478400: {TIME_ALLOWED}"),
        ('{"model": "GPT-4o", "time": "2026-11-24", "metric": 0}',
         f"line 1: metric is 0: {METRIC_ALLOWED}"),
        ('\n{"metric": "TPS"}',
         "line 2 has the columns 'metric': must have one of model, llm_name"),
        ('[{"model": "GPT-4o"}]', "line 1 is a list of 1: must be an object, one per line"),
        ("{}", "line 1 has no columns: must have one of model, llm_name"),
    ],
)  # fmt: skip
def test_errors_name_line_value_and_what_is_allowed(text: str | bytes, message: str) -> None:
    assert error_of(text) == message


def test_deeply_nested_json_is_refused() -> None:
    assert error_of("[" * 100_000).startswith("line 1 is not valid JSON: ")


@given(st.one_of(st.binary(), st.text(), st.text(alphabet='{}[]":,\n;modelti0é').map(str)))
def test_any_content_is_read_or_refused(content: str | bytes) -> None:
    try:
        read(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    except ScoringError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message
