"""Read and acknowledge the messages of a queue."""

import json
from dataclasses import dataclass
from typing import Any

import pika

from sim_pipeline.config import Settings


@dataclass(frozen=True)
class Received:
    """A message from the queue."""

    message_id: str
    body: list[dict[str, Any]]
    properties: pika.BasicProperties


def drain(settings: Settings) -> list[Received]:
    """Receive and acknowledge every message in the queue of these settings, in order."""
    connection = pika.BlockingConnection(
        pika.ConnectionParameters(
            settings.rabbitmq_host,
            settings.rabbitmq_port,
            settings.rabbitmq_vhost,
            pika.PlainCredentials(
                settings.rabbitmq_user, settings.rabbitmq_password.get_secret_value()
            ),
        )
    )
    received: list[Received] = []
    channel = connection.channel()
    while True:
        method, properties, body = channel.basic_get(settings.rabbitmq_queue)
        if method is None or properties is None or body is None:
            connection.close()
            return received
        channel.basic_ack(method.delivery_tag or 0)
        received.append(Received(str(properties.message_id), json.loads(body), properties))
