"""The contract with consumers, and whether encoded messages keep it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import orjson
import pytest
from pydantic import ValidationError

from sim_pipeline.broker.contract import SimulationMessage, message_schema, schema_file
from sim_pipeline.broker.message import encode

SCHEMA_FILE = Path(__file__).parents[2] / "docs" / "message.schema.json"

VALID: list[dict[str, Any]] = [
    {
        "llm_name": "GPT-4o",
        "metric": metric,
        "values": [1.0, 2.5],
        "timestamp": "2024-09-27T11:29:13.291565Z",
    }
    for metric in ("TTFT", "TPS", "e2e_latency", "RPS")
]

VALIDATOR = jsonschema.Draft202012Validator(
    message_schema(), format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
)


def changed(index: int, **values: object) -> list[dict[str, Any]]:
    return [row | values if number == index else row for number, row in enumerate(VALID)]


INVALID = {
    "three metrics": VALID[:3],
    "five metrics": [*VALID, VALID[0]],
    "wrong order": [VALID[1], VALID[0], *VALID[2:]],
    "duplicate metric": changed(1, metric="TTFT"),
    "unknown metric": changed(0, metric="ttft"),
    "extra key": changed(2, unit="s"),
    "missing key": [{"metric": "TTFT"}, *VALID[1:]],
    "empty model": changed(0, llm_name=""),
    "long model": changed(0, llm_name="m" * 51),
    "vertical bar in model": changed(0, llm_name="a|b"),
    "no values": changed(3, values=[]),
    "text value": changed(3, values=["1"]),
    "null value": changed(3, values=[None, 1.0]),
    "too many values": changed(3, values=[1.0] * 10_001),
    "no decimals": changed(0, timestamp="2024-09-27T11:29:13Z"),
    "UTC offset": changed(0, timestamp="2024-09-27T11:29:13.291565+00:00"),
}

# JSON Schema cannot express these.
INVALID_TOGETHER = {
    "two models": changed(1, llm_name="other"),
    "two windows": changed(1, timestamp="2024-09-27T11:29:14.291565Z"),
    "unequal lengths": changed(1, values=[1.0]),
}


def test_schema_is_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(message_schema())


def test_schema_file_is_up_to_date() -> None:
    assert SCHEMA_FILE.read_text() == schema_file(), (
        f"run: python -m sim_pipeline.broker.contract > docs/{SCHEMA_FILE.name}"
    )


@pytest.mark.parametrize("points", [1, 5, 10_000])
def test_encoded_messages_keep_the_contract(points: int) -> None:
    values = np.random.default_rng(points).lognormal(size=(4, points))

    body = encode("Llama-3.1-8B", datetime(2026, 1, 1, tzinfo=UTC), values)

    VALIDATOR.validate(orjson.loads(body))
    assert SimulationMessage.model_validate_json(body).root[2].values == values[2].tolist()


@pytest.mark.parametrize("message", INVALID.values(), ids=INVALID.keys())
def test_schema_and_model_reject_the_same(message: list[dict[str, Any]]) -> None:
    assert not VALIDATOR.is_valid(message)
    with pytest.raises(ValidationError):
        SimulationMessage.model_validate_json(orjson.dumps(message))


@pytest.mark.parametrize("message", INVALID_TOGETHER.values(), ids=INVALID_TOGETHER.keys())
def test_model_rejects_objects_that_differ(message: list[dict[str, Any]]) -> None:
    with pytest.raises(ValidationError, match="differ in llm_name, timestamp or number of values"):
        SimulationMessage.model_validate_json(orjson.dumps(message))


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"1e999"])
def test_model_rejects_non_finite_values(value: bytes) -> None:
    body = orjson.dumps(VALID).replace(b"2.5", value, 1)

    with pytest.raises(ValidationError):
        SimulationMessage.model_validate_json(body)
