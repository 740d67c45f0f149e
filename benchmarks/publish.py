"""Publishing to a quorum queue: our publisher against one confirm at a time.

    python -m benchmarks.publish [--messages 10000] [--pairs 3] [--points 5]

Starts a RabbitMQ node of its own. Each pair publishes the same messages twice, each time to a fresh
queue: with our publisher, and with pika's BlockingConnection, which waits for the confirm of each
message before it sends the next. What is timed is publishing, not connecting. After each, the queue
must hold exactly what was published.
"""

import argparse
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pika
import psutil
from pika.adapters.blocking_connection import BlockingChannel

from benchmarks.machine import header
from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.broker.message import (
    APP_ID,
    MESSAGE_TYPE,
    OutgoingMessage,
    encode,
    message_id,
)
from sim_pipeline.broker.publisher import Publisher
from sim_pipeline.service.ports import free_port
from sim_pipeline.service.rabbitmq import LocalRabbitMQ

_START = datetime(2026, 1, 1, tzinfo=UTC)
_MEBIBYTE = 1024**2

Messages = Sequence[OutgoingMessage]


def main() -> None:
    """Measure the pairs and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--points", type=int, default=5, help="values per metric in a message")
    arguments = parser.parse_args()

    messages = _messages(arguments.messages, arguments.points)
    size = statistics.mean(len(message.body) for message in messages)
    print(header())
    print(f"{len(messages)} messages of {size:.0f} bytes on average, quorum queue")
    with (
        tempfile.TemporaryDirectory(prefix="sim_pipeline-benchmark-") as directory,
        LocalRabbitMQ(
            Path(directory),
            port=free_port(),
            user="simulation",
            password=secrets.token_urlsafe(),
        ) as server,
    ):
        _measure(server, messages, arguments.pairs)


def _measure(server: LocalRabbitMQ, messages: Messages, pairs: int) -> None:
    process = psutil.Process()
    ours: list[float] = []
    others: list[float] = []
    print("pair  ours [1/s]  one at a time [1/s]  ratio  resident memory [MiB]")
    for pair in range(1, pairs + 1):
        before = process.memory_info().rss / _MEBIBYTE
        ours.append(_rate(server, messages, _publish_ours))
        after = process.memory_info().rss / _MEBIBYTE
        others.append(_rate(server, messages, _publish_one_at_a_time))
        print(
            f"{pair:4}  {ours[-1]:10,.0f}  {others[-1]:19,.0f}  {ours[-1] / others[-1]:5.1f}  "
            f"{before:.1f} -> {after:.1f}"
        )
    ratios = [one / other for one, other in zip(ours, others, strict=True)]
    print(
        f"median ratio {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}); "
        f"ours {statistics.median(ours):,.0f}/s, one at a time {statistics.median(others):,.0f}/s; "
        "all confirmed, none lost"
    )


def _rate(
    server: LocalRabbitMQ,
    messages: Messages,
    publish: Callable[[LocalRabbitMQ, str, Messages], float],
) -> float:
    """Messages per second into a fresh queue, which must then hold them all."""
    queue = f"benchmark-{secrets.token_hex(4)}"
    seconds = publish(server, queue, messages)
    with pika.BlockingConnection(server.connection_parameters()) as connection:
        channel = connection.channel()
        held = channel.queue_declare(queue, passive=True).method.message_count
        channel.queue_delete(queue)
    if held != len(messages):
        raise SystemExit(f"{len(messages)} messages published, {held} in the queue")
    return (len(messages) - 1) / seconds


def _publish_ours(server: LocalRabbitMQ, queue: str, messages: Messages) -> float:
    """Publish and return the seconds it took, from the second message on."""
    config = BrokerConfig(
        host=server.host,
        port=server.port,
        user=server.user,
        password=server.password,
        vhost=server.vhost,
        queue=queue,
    )
    with Publisher(config) as publisher:
        # The first opens the connection and declares the queue.
        confirmed = set(publisher.publish(messages[:1]).confirmed)
        start = time.perf_counter()
        confirmed |= publisher.publish(messages[1:]).confirmed
        seconds = time.perf_counter() - start
    if len(confirmed) != len(messages):
        raise SystemExit(f"{len(confirmed)} of {len(messages)} messages confirmed")
    return seconds


def _publish_one_at_a_time(server: LocalRabbitMQ, queue: str, messages: Messages) -> float:
    """Publish and return the seconds it took, from the second message on."""
    with pika.BlockingConnection(server.connection_parameters()) as connection:
        channel = connection.channel()
        channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
        channel.confirm_delivery()
        _publish_and_wait(channel, queue, messages[0])
        start = time.perf_counter()
        for message in messages[1:]:
            _publish_and_wait(channel, queue, message)
        return time.perf_counter() - start


def _publish_and_wait(channel: BlockingChannel, queue: str, message: OutgoingMessage) -> None:
    """Publish one message; raises unless it is confirmed."""
    channel.basic_publish(
        exchange="",
        routing_key=queue,
        body=message.body,
        properties=pika.BasicProperties(
            content_type="application/json",
            delivery_mode=2,
            message_id=str(message.message_id),
            type=MESSAGE_TYPE,
            app_id=APP_ID,
        ),
        mandatory=True,
    )


def _messages(count: int, points: int) -> Messages:
    random = np.random.default_rng(0)
    timestamps = (_START + timedelta(hours=hour) for hour in range(count))
    return [
        OutgoingMessage(
            message_id("GPT-4o", timestamp, ""),
            encode("GPT-4o", timestamp, random.lognormal(size=(4, points))),
        )
        for timestamp in timestamps
    ]


if __name__ == "__main__":
    main()
