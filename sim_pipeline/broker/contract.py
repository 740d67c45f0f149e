"""The message as consumers are promised it: one model, and the JSON Schema made from it.

    python -m sim_pipeline.broker.contract > docs/message.schema.json

The publisher does not use it; `message.py` writes the bytes. That the two agree is tested.
"""

import json
import sys
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator
from pydantic.json_schema import GenerateJsonSchema

from sim_pipeline.metrics import METRICS

MAX_POINTS: Final = 10_000
"""Most values per metric in a message."""

LlmName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=50,
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
        description="One value per slice of the window, in order of time; TTFT, TPS and "
        "e2e_latency of an index belong to the same request. TTFT and e2e_latency in seconds, TPS "
        "in tokens per second, RPS in requests per second.",
    ),
]

Timestamp = Annotated[
    str,
    Field(
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$",
        description="Start of the window in UTC: always six decimals and Z.",
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

    All four objects name the same model and the same window, and have equally many values.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    @model_validator(mode="after")
    def _one_simulation(self) -> Self:
        metrics = tuple(series.metric for series in self.root)
        if metrics != METRICS:
            raise ValueError(f"metrics must be {METRICS}, in this order, not {metrics}")
        simulations = {(one.llm_name, one.timestamp, len(one.values)) for one in self.root}
        if len(simulations) > 1:
            raise ValueError("the objects differ in llm_name, timestamp or number of values")
        return self


class _Untitled(GenerateJsonSchema):
    """Leaves out titles, which would only repeat the names of the properties."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


def message_schema() -> dict[str, Any]:
    """The JSON Schema of a message's body."""
    return SimulationMessage.model_json_schema(schema_generator=_Untitled)


def schema_file() -> str:
    """What `docs/message.schema.json` holds."""
    return (
        json.dumps({"$schema": GenerateJsonSchema.schema_dialect} | message_schema(), indent=2)
        + "\n"
    )


if __name__ == "__main__":
    sys.stdout.write(schema_file())
