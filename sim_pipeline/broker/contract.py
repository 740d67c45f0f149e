"""The contract with consumers: a pydantic model of the message body, and its JSON Schema.

    python -m sim_pipeline.broker.contract > docs/message.schema.json

The publisher does not use this module; `message.py` writes the body. Tests check that both agree,
and that docs/asyncapi.yaml has the same schema.
"""

import json
import sys
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator
from pydantic.json_schema import GenerateJsonSchema

from sim_pipeline.metrics import MAX_MODEL_NAME_LENGTH, MAX_POINTS, METRICS

LlmName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_MODEL_NAME_LENGTH,
        pattern=r"^[^|\[\]]+$",
        description="Name of the model.",
        examples=["GPT-4o"],
    ),
]

Value = Annotated[float, Field(allow_inf_nan=False)]

Values = Annotated[
    list[Value],
    Field(
        min_length=1,
        max_length=MAX_POINTS,
        description="One value per slice of the window, in time order. TTFT, TPS and e2e_latency "
        "at the same index belong to the same request. Units: TTFT and e2e_latency in seconds, TPS "
        "in tokens per second, RPS in requests per second.",
    ),
]

Timestamp = Annotated[
    str,
    Field(
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$",
        description="Start of the window in UTC, always with six decimals and Z.",
        examples=["2024-09-27T11:29:13.291565Z"],
        json_schema_extra={"format": "date-time"},
    ),
]


class MetricSeries(BaseModel):
    """The values of one metric of one model in one window."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    llm_name: LlmName
    metric: Literal["TTFT", "TPS", "e2e_latency", "RPS"]
    values: Values
    timestamp: Timestamp


_TTFT = Annotated[
    MetricSeries, Field(json_schema_extra={"properties": {"metric": {"const": "TTFT"}}})
]
_TPS = Annotated[
    MetricSeries, Field(json_schema_extra={"properties": {"metric": {"const": "TPS"}}})
]
_E2E = Annotated[
    MetricSeries, Field(json_schema_extra={"properties": {"metric": {"const": "e2e_latency"}}})
]
_RPS = Annotated[
    MetricSeries, Field(json_schema_extra={"properties": {"metric": {"const": "RPS"}}})
]


class SimulationMessage(RootModel[tuple[_TTFT, _TPS, _E2E, _RPS]]):
    """One simulation: the four metrics of one model in one window, always in this order.

    All four objects have the same model, the same timestamp and the same number of values.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    @model_validator(mode="after")
    def _one_simulation(self) -> Self:
        metrics = tuple(series.metric for series in self.root)
        if metrics != METRICS:
            raise ValueError(f"metrics must be {METRICS}, in this order, not {metrics}")
        simulations = {
            (series.llm_name, series.timestamp, len(series.values)) for series in self.root
        }
        if len(simulations) > 1:
            raise ValueError("the objects differ in llm_name, timestamp or number of values")
        return self


class _Untitled(GenerateJsonSchema):
    """Omits titles, which would only repeat the property names."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


def message_schema() -> dict[str, Any]:
    """Return the JSON Schema of a message body."""
    return SimulationMessage.model_json_schema(schema_generator=_Untitled)


def schema_file() -> str:
    """Return the content of `docs/message.schema.json`."""
    return (
        json.dumps({"$schema": GenerateJsonSchema.schema_dialect} | message_schema(), indent=2)
        + "\n"
    )


if __name__ == "__main__":
    sys.stdout.write(schema_file())
