"""The AsyncAPI document: valid by AsyncAPI's own schema, in step, and true of what is published."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from sim_pipeline.broker.asyncapi import document, document_file
from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.config import Settings, variable_name
from sim_pipeline_tests.broker.harness import Queue, messages, publish
from sim_pipeline_tests.broker.test_contract import INVALID, VALID
from sim_pipeline_tests.docs import npm

DOCUMENT_FILE = Path(__file__).parents[2] / "docs" / "asyncapi.yaml"
ASYNCAPI_SCHEMA = Path(npm.__file__).parent / "asyncapi_schema"

DOCUMENT = document()


def validator(schema: dict[str, Any]) -> jsonschema.Draft7Validator:
    """Of a schema in the document, whose references lead into the document."""
    return jsonschema.Draft7Validator(
        schema | {"components": DOCUMENT["components"]},
        format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER,
    )


MESSAGE = DOCUMENT["components"]["messages"]["simulation"]
PAYLOAD = validator(MESSAGE["payload"])
PROPERTIES = validator(MESSAGE["headers"])


def test_file_is_in_step_with_the_model() -> None:
    assert DOCUMENT_FILE.read_text(encoding="utf-8") == document_file(), (
        f"run: python -m sim_pipeline.broker.asyncapi > docs/{DOCUMENT_FILE.name}"
    )
    assert yaml.safe_load(document_file()) == DOCUMENT


def test_document_is_valid_by_asyncapis_own_schema(tmp_path: Path) -> None:
    packages = npm.install(ASYNCAPI_SCHEMA, tmp_path)
    schema = json.loads(
        (packages / "@asyncapi" / "specs" / "schemas" / "3.0.0.json").read_text(encoding="utf-8")
    )

    jsonschema.Draft7Validator(schema).validate(DOCUMENT)


def test_every_reference_leads_somewhere() -> None:
    references = _references(DOCUMENT)
    assert len(references) > 5
    for reference in references:
        found: Any = DOCUMENT
        for name in reference.removeprefix("#/").split("/"):
            found = found[name]


def test_payload_takes_a_message() -> None:
    PAYLOAD.validate(VALID)


@pytest.mark.parametrize("message", INVALID.values(), ids=INVALID.keys())
def test_payload_refuses_what_the_model_refuses(message: list[dict[str, Any]]) -> None:
    assert not PAYLOAD.is_valid(message)


def test_examples_keep_the_contract() -> None:
    (example,) = MESSAGE["examples"]
    PAYLOAD.validate(example["payload"])
    PROPERTIES.validate(example["headers"])


def test_published_messages_have_the_properties_and_the_bindings(
    config: BrokerConfig, queue: Queue
) -> None:
    publish(config, messages(1))

    (received,) = queue.drain()
    properties = {
        name: value for name, value in vars(received.properties).items() if value is not None
    }
    # The broker's own: a quorum queue counts deliveries there.
    assert set(properties.pop("headers")) <= {"x-delivery-count"}
    PROPERTIES.validate(properties)
    assert set(properties) == set(MESSAGE["headers"]["required"])
    assert properties["type"] == MESSAGE["bindings"]["amqp"]["messageType"]
    assert properties["content_type"] == MESSAGE["contentType"]
    (operation,) = DOCUMENT["operations"].values()
    assert properties["delivery_mode"] == operation["bindings"]["amqp"]["deliveryMode"]


def test_servers_and_queue_are_those_of_the_defaults() -> None:
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
        return [one for inner in value.values() for one in _references(inner)]
    if isinstance(value, list):
        return [one for inner in value for one in _references(inner)]
    return []
