"""The feed as an AsyncAPI 3 document: where the messages come from, and what each one carries.

    python -m sim_pipeline.broker.asyncapi > docs/asyncapi.yaml

Its payload is the model of `contract.py`, in the dialect that every AsyncAPI tool reads. The
publisher does not use it; that its messages are as it says is tested.
"""

import json
import sys
from datetime import UTC, datetime
from typing import Any, Final

import yaml

from sim_pipeline.broker.contract import message_schema
from sim_pipeline.broker.message import APP_ID, MESSAGE_TYPE, encode, message_id

_BINDING_VERSION: Final = "0.3.0"
_QUEUE: Final = "simulation_results"
_DEFS: Final = "#/$defs/"
_SCHEMAS: Final = "#/components/schemas/"

_DESCRIPTION: Final = """\
Simulated LLM serving metrics: TTFT, TPS, e2e latency and RPS of each model in each window of time.

One message a model and window, mostly in order of time. A backfill's windows, and those of a gap
that was repaired, come after newer ones: sort by `timestamp`.
"""

_MESSAGE_DESCRIPTION: Final = """\
Delivered at least once. After a crash or a lost connection a message may come again, with the same
`message_id` and the same body: a consumer that drops ids it has seen gets each simulation exactly
once. A window that was simulated anew from other inputs comes under a new `message_id` and replaces
what came before for the same `llm_name` and `timestamp`.
"""


def document() -> dict[str, Any]:
    """The AsyncAPI document, from the publisher's side: it sends."""
    schema = message_schema()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "sim_pipeline",
            "version": "1.0.0",
            "description": _DESCRIPTION,
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "plain": _server("amqp", "15673", "RabbitMQ without TLS."),
            "tls": _server("amqps", "5671", "RabbitMQ by TLS (RABBITMQ_TLS=true)."),
        },
        "channels": {
            "simulations": {
                "address": _QUEUE,
                "title": "The queue",
                "description": "RABBITMQ_QUEUE names another. Messages reach it by the default "
                "exchange. Used as it is if it exists, else declared as a durable quorum queue.",
                "messages": {"simulation": {"$ref": "#/components/messages/simulation"}},
                "bindings": {
                    "amqp": {
                        "is": "queue",
                        "queue": {
                            "name": _QUEUE,
                            "durable": True,
                            "exclusive": False,
                            "autoDelete": False,
                            "vhost": "/",
                        },
                        "bindingVersion": _BINDING_VERSION,
                    }
                },
            }
        },
        "operations": {
            "publishSimulation": {
                "action": "send",
                "channel": {"$ref": "#/channels/simulations"},
                "summary": "Publishes one simulation.",
                "description": "Persistent and mandatory; it counts as delivered once the broker "
                "has confirmed it. A consumer acknowledges what it has dealt with.",
                "messages": [{"$ref": "#/channels/simulations/messages/simulation"}],
                "bindings": {
                    "amqp": {
                        "deliveryMode": 2,
                        "mandatory": True,
                        "ack": True,
                        "bindingVersion": _BINDING_VERSION,
                    }
                },
            }
        },
        "components": {
            "securitySchemes": {
                "login": {
                    "type": "userPassword",
                    "description": "RABBITMQ_USER and RABBITMQ_PASSWORD.",
                }
            },
            "messages": {"simulation": _message(schema)},
            "schemas": schema["$defs"],
        },
    }


def document_file() -> str:
    """What `docs/asyncapi.yaml` holds."""
    return yaml.dump(document(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _server(protocol: str, port: str, description: str) -> dict[str, Any]:
    return {
        "host": "{host}:{port}",
        "pathname": "/{vhost}",
        "protocol": protocol,
        "protocolVersion": "0.9.1",
        "description": description,
        "variables": {
            "host": {"default": "127.0.0.1", "description": "RABBITMQ_HOST"},
            "port": {"default": port, "description": "RABBITMQ_PORT"},
            "vhost": {
                "default": "%2F",
                "description": "RABBITMQ_VHOST, percent-encoded as in a URI: %2F is the virtual "
                "host /",
            },
        },
        "security": [{"$ref": "#/components/securitySchemes/login"}],
    }


def _message(schema: dict[str, Any]) -> dict[str, Any]:
    timestamp = datetime(2026, 11, 24, 5, tzinfo=UTC)
    example = ("GPT-4o", timestamp, [[0.41, 0.38], [80.0, 64.0], [2.41, 2.38], [8.5, 9.25]])
    return {
        "name": MESSAGE_TYPE,
        "title": "A simulation",
        "summary": "The four metrics of one model in one window.",
        "description": _MESSAGE_DESCRIPTION,
        "contentType": "application/json",
        "correlationId": {
            "description": "Names the simulation: the same as long as its inputs are.",
            "location": "$message.header#/message_id",
        },
        "headers": _properties(),
        "payload": _payload(schema),
        "bindings": {"amqp": {"messageType": MESSAGE_TYPE, "bindingVersion": _BINDING_VERSION}},
        "examples": [
            {
                "name": "two values per metric",
                "headers": {
                    "message_id": str(message_id(example[0], timestamp, "example")),
                    "type": MESSAGE_TYPE,
                    "app_id": APP_ID,
                    "content_type": "application/json",
                    "delivery_mode": 2,
                },
                "payload": json.loads(encode(*example)),
            }
        ],
    }


def _properties() -> dict[str, Any]:
    """The AMQP properties, which AsyncAPI has no other place for than a message's headers."""
    properties = {
        "message_id": {
            "type": "string",
            "format": "uuid",
            "description": "Names the simulation. Repeated if the message is sent again.",
        },
        "type": {"type": "string", "const": MESSAGE_TYPE},
        "app_id": {"type": "string", "const": APP_ID},
        "content_type": {"type": "string", "const": "application/json"},
        "delivery_mode": {"type": "integer", "const": 2, "description": "Persistent."},
    }
    return {
        "type": "object",
        "description": "AMQP's basic properties. In the property `headers` is nothing but what "
        "the broker puts there, such as a quorum queue's x-delivery-count.",
        "required": list(properties),
        "properties": properties,
    }


def _payload(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a body in AsyncAPI's own dialect, draft 7 of JSON Schema.

    It has `items` for what is `prefixItems` now, and heeds nothing that stands beside a `$ref`.
    """
    return {
        keyword: value
        for keyword, value in schema.items()
        if keyword not in {"$defs", "prefixItems"}
    } | {
        "items": [
            {
                "allOf": [
                    {"$ref": item["$ref"].replace(_DEFS, _SCHEMAS)},
                    {"properties": item["properties"]},
                ]
            }
            for item in schema["prefixItems"]
        ],
        "additionalItems": False,
    }


class _Dumper(yaml.SafeDumper):
    """Writes each value in full, and texts of several lines as such."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the library's own signature
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    )


_Dumper.add_representer(str, _represent_text)


if __name__ == "__main__":
    sys.stdout.write(document_file())
