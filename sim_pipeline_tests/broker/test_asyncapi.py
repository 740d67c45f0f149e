"""docs/asyncapi.yaml: valid AsyncAPI that matches the contract, the settings and real messages."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.broker.contract import message_schema
from sim_pipeline.broker.message import encode
from sim_pipeline.config import Settings, variable_name
from sim_pipeline_tests.broker.harness import Queue, messages, publish
from sim_pipeline_tests.broker.test_contract import INVALID, VALID
from sim_pipeline_tests.docs import npm

FILE = Path(__file__).parents[2] / "docs" / "asyncapi.yaml"
ASYNCAPI_SCHEMA = Path(npm.__file__).parent / "asyncapi_schema"

DOCUMENT = yaml.safe_load(FILE.read_text(encoding="utf-8"))


def validator(schema: dict[str, Any]) -> jsonschema.Draft7Validator:
    """Return the validator of a schema in the document, which may refer to other parts of it."""
    return jsonschema.Draft7Validator(
        schema | {"components": DOCUMENT["components"]},
        format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER,
    )


MESSAGE = DOCUMENT["components"]["messages"]["simulation"]
PAYLOAD = validator(MESSAGE["payload"])
PROPERTIES = validator(MESSAGE["headers"])


def test_payload_is_the_schema_of_the_contract() -> None:
    """AsyncAPI's dialect is draft 7: `items` for `prefixItems`, and nothing beside a `$ref`."""
    contract = message_schema()
    items = [
        {
            "allOf": [
                {"$ref": item["$ref"].replace("#/$defs/", "#/components/schemas/")},
                {"properties": item["properties"]},
            ]
        }
        for item in contract.pop("prefixItems")
    ]

    assert DOCUMENT["components"]["schemas"] == contract.pop("$defs")
    assert MESSAGE["payload"] == contract | {"items": items, "additionalItems": False}


def test_document_is_valid_asyncapi(tmp_path: Path) -> None:
    packages = npm.install(ASYNCAPI_SCHEMA, tmp_path)
    schema = json.loads(
        (packages / "@asyncapi" / "specs" / "schemas" / "3.0.0.json").read_text(encoding="utf-8")
    )

    jsonschema.Draft7Validator(schema).validate(DOCUMENT)


def test_references_can_be_resolved() -> None:
    references = _references(DOCUMENT)
    assert len(references) > 5
    for reference in references:
        found: Any = DOCUMENT
        for name in reference.removeprefix("#/").split("/"):
            found = found[name]


def test_payload_accepts_a_message() -> None:
    PAYLOAD.validate(VALID)


@pytest.mark.parametrize("message", INVALID.values(), ids=INVALID.keys())
def test_payload_rejects_invalid_messages(message: list[dict[str, Any]]) -> None:
    assert not PAYLOAD.is_valid(message)


def test_example_is_an_encoded_message() -> None:
    (example,) = MESSAGE["examples"]
    PROPERTIES.validate(example["headers"])
    PAYLOAD.validate(example["payload"])
    first = example["payload"][0]
    body = encode(
        first["llm_name"],
        datetime.fromisoformat(first["timestamp"]),
        [series["values"] for series in example["payload"]],
    )
    assert example["payload"] == json.loads(body)


def test_published_messages_match_the_document(config: BrokerConfig, queue: Queue) -> None:
    publish(config, messages(1))

    (received,) = queue.drain()
    properties = {
        name: value for name, value in vars(received.properties).items() if value is not None
    }
    # Set by the broker: a quorum queue counts deliveries there, in version 3 also the first.
    assert set(properties.pop("headers", {})) <= {"x-delivery-count"}
    PROPERTIES.validate(properties)
    assert set(properties) == set(MESSAGE["headers"]["required"])
    assert properties["type"] == MESSAGE["bindings"]["amqp"]["messageType"]
    assert properties["content_type"] == MESSAGE["contentType"]
    (operation,) = DOCUMENT["operations"].values()
    assert properties["delivery_mode"] == operation["bindings"]["amqp"]["deliveryMode"]


def test_servers_and_queue_match_the_settings() -> None:
    (channel,) = DOCUMENT["channels"].values()
    default = {name: field.default for name, field in Settings.model_fields.items()}
    variables = DOCUMENT["servers"]["plain"]["variables"]

    assert channel["address"] == channel["bindings"]["amqp"]["queue"]["name"]
    assert channel["address"] == default["rabbitmq_queue"]
    assert variables["host"]["default"] == default["rabbitmq_host"]
    assert variables["port"]["default"] == str(default["rabbitmq_port"])
    named = {
        variable["description"].split(",")[0]
        for server in DOCUMENT["servers"].values()
        for variable in server["variables"].values()
    }
    assert named <= {variable_name(field) for field in Settings.model_fields}


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            return [value["$ref"]]
        return [reference for inner in value.values() for reference in _references(inner)]
    if isinstance(value, list):
        return [reference for inner in value for reference in _references(inner)]
    return []
