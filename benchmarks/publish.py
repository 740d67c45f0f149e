"""Benchmark: publish to a quorum queue, with our publisher and with one confirm at a time.

    python -m benchmarks.publish [--messages 10000] [--pairs 5] [--points 5]

It starts its own RabbitMQ node. Each pair publishes the same messages twice, each time to a new
queue: with our publisher, and with pika's BlockingConnection, which waits for each message's
confirm before it sends the next. The order alternates. The time to connect is not included. After
each measurement the queue must hold exactly the published messages.

Then a separate process publishes ten times as many messages in batches of 5,000, as the feed does.
Its peak resident memory after the first tenth and at the end shows whether memory is constant
(Linux). A missing message, or a median ratio of rates below `--ratio`, is an error.
"""

import argparse
import multiprocessing
import secrets
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pika
from pika.adapters.blocking_connection import BlockingChannel

from benchmarks.figures import Limit, Row
from benchmarks.machine import header
from benchmarks.servers import rabbitmq_server
from benchmarks.workers import peak_memory
from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.broker.message import (
    APP_ID,
    MESSAGE_TYPE,
    OutgoingMessage,
    encode,
    message_id,
)
from sim_pipeline.broker.publisher import Publisher
from sim_pipeline.local_servers.rabbitmq import LocalRabbitMQ

_START = datetime(2026, 1, 1, tzinfo=UTC)
_MESSAGES, _PAIRS, _POINTS, _RATIO = 10_000, 5, 5, 10.0
_MEMORY_FACTOR = 10
# The feed claims and publishes this many messages in one call.
_BATCH_MESSAGES = 5_000

Messages = Sequence[OutgoingMessage]
Publish = Callable[[LocalRabbitMQ, str, Messages], float]


def main() -> None:
    """Measure the pairs and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--messages", type=int, default=_MESSAGES)
    parser.add_argument("--pairs", type=int, default=_PAIRS)
    parser.add_argument(
        "--points", type=int, default=_POINTS, help="values per metric in a message"
    )
    parser.add_argument("--ratio", type=float, default=_RATIO, help="required median ratio")
    arguments = parser.parse_args()

    messages = _messages(range(arguments.messages), arguments.points)
    size = statistics.mean(len(message.body) for message in messages)
    print(header())
    print(f"{len(messages)} messages of {size:.0f} bytes on average, quorum queue")
    with rabbitmq_server() as server:
        ratio = _measure(server, messages, arguments.pairs)
        _measure_memory(server, arguments.messages, arguments.points)
    if ratio < arguments.ratio:
        raise SystemExit(f"median ratio {ratio:.1f}, below {arguments.ratio:g}")


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure pairs of rates, then the peak memory.

    Args:
        quick: use 500 messages, twice, as a smoke test.
    """
    count, pairs = (500, 2) if quick else (_MESSAGES, _PAIRS)
    with rabbitmq_server() as server:
        rates = list(_rates(server, _messages(range(count), _POINTS), pairs))
        peaks = _memory_peaks(server, (count, _MEMORY_FACTOR * count), _POINTS)
    ours, baseline = zip(*rates, strict=True)
    yield Row(
        f"publish {count:,} messages, all confirmed",
        "1/s",
        ours,
        "pika, a confirm for each message",
        baseline,
        Limit(_RATIO, at_least=True),
    )
    yield Row(
        f"peak memory after {_MEMORY_FACTOR * count:,} messages",
        "MiB",
        (peaks[1],),
        f"peak memory after {count:,}",
        (peaks[0],),
    )


def _measure(server: LocalRabbitMQ, messages: Messages, pairs: int) -> float:
    """Print each pair; return the median ratio."""
    ours, baseline = [], []
    print("pair  ours [1/s]  one at a time [1/s]  ratio")
    for pair, (rate, base) in enumerate(_rates(server, messages, pairs), 1):
        ours.append(rate)
        baseline.append(base)
        print(f"{pair:4}  {rate:10,.0f}  {base:19,.0f}  {rate / base:5.1f}")
    ratios = [rate / base for rate, base in zip(ours, baseline, strict=True)]
    print(
        f"median ratio {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}); "
        f"ours {_spread(ours)}, one at a time {_spread(baseline)}; all confirmed, none lost"
    )
    return statistics.median(ratios)


def _rates(server: LocalRabbitMQ, messages: Messages, pairs: int) -> Iterator[tuple[float, float]]:
    """Yield pairs of rates, in messages per second: ours, and one confirm at a time."""
    rates: dict[Publish, float] = {_publish_ours: 0.0, _publish_one_at_a_time: 0.0}
    for pair in range(pairs):
        for publish in list(rates)[:: -1 if pair % 2 else 1]:
            rates[publish] = _rate(server, messages, publish)
        yield rates[_publish_ours], rates[_publish_one_at_a_time]


def _spread(rates: Sequence[float]) -> str:
    return f"{statistics.median(rates):,.0f}/s ({min(rates):,.0f} to {max(rates):,.0f})"


def _measure_memory(server: LocalRabbitMQ, messages: int, points: int) -> None:
    """Print the peak resident memory of a process that publishes many messages."""
    counts = (messages, _MEMORY_FACTOR * messages)
    peaks = _memory_peaks(server, counts, points)
    for count, peak in zip(counts, peaks, strict=True):
        print(f"{count:9,} messages published: resident memory at most {peak:.1f} MiB")
    print(f"grown by {peaks[-1] / peaks[0] - 1:.1%}; all confirmed, none lost")


def _memory_peaks(server: LocalRabbitMQ, counts: Sequence[int], points: int) -> list[float]:
    """Run `_peaks` in a separate process, check the queue, and return the result."""
    queue = f"benchmark-{secrets.token_hex(4)}"
    # Spawned, because a forked process would start with our memory.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        peaks = executor.submit(_peaks, _config(server, queue), counts, points).result()
    _require_held(server, queue, counts[-1])
    return peaks


def _peaks(config: BrokerConfig, counts: Sequence[int], points: int) -> list[float]:
    """Publish; return this process's peak resident memory at each count, in MiB."""
    peaks = []
    done = 0
    with Publisher(config) as publisher:
        for count in counts:
            while done < count:
                windows = range(done, min(done + _BATCH_MESSAGES, count))
                confirmed = publisher.publish(_messages(windows, points)).confirmed
                _require_confirmed(len(confirmed), len(windows))
                done = windows.stop
            peaks.append(peak_memory())
    return peaks


def _rate(
    server: LocalRabbitMQ,
    messages: Messages,
    publish: Publish,
) -> float:
    """Publish to a new queue, check that it holds all messages, and return messages per second."""
    queue = f"benchmark-{secrets.token_hex(4)}"
    seconds = publish(server, queue, messages)
    _require_held(server, queue, len(messages))
    return (len(messages) - 1) / seconds


def _require_held(server: LocalRabbitMQ, queue: str, messages: int) -> None:
    """Delete the queue; exit with an error if it does not hold this number of messages."""
    with pika.BlockingConnection(server.connection_parameters()) as connection:
        channel = connection.channel()
        held = channel.queue_declare(queue, passive=True).method.message_count
        channel.queue_delete(queue)
    if held != messages:
        raise SystemExit(f"{messages} messages published, {held} in the queue")


def _require_confirmed(confirmed: int, messages: int) -> None:
    if confirmed != messages:
        raise SystemExit(f"{confirmed} of {messages} messages confirmed")


def _config(server: LocalRabbitMQ, queue: str) -> BrokerConfig:
    return BrokerConfig(
        host=server.host,
        port=server.port,
        user=server.user,
        password=server.password,
        vhost=server.vhost,
        queue=queue,
    )


def _publish_ours(server: LocalRabbitMQ, queue: str, messages: Messages) -> float:
    """Publish; return the seconds from the second message to the last confirm."""
    with Publisher(_config(server, queue)) as publisher:
        # The first opens the connection and declares the queue.
        confirmed = set(publisher.publish(messages[:1]).confirmed)
        start = time.perf_counter()
        confirmed |= publisher.publish(messages[1:]).confirmed
        seconds = time.perf_counter() - start
    _require_confirmed(len(confirmed), len(messages))
    return seconds


def _publish_one_at_a_time(server: LocalRabbitMQ, queue: str, messages: Messages) -> float:
    """Publish; return the seconds from the second message to the last confirm."""
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
    """Publish one message and wait for its confirm; raise if it is not confirmed."""
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


def _messages(windows: range, points: int) -> Messages:
    random = np.random.default_rng(windows.start)
    timestamps = (_START + timedelta(hours=window) for window in windows)
    return [
        OutgoingMessage(
            message_id("GPT-4o", timestamp, ""),
            encode("GPT-4o", timestamp, random.lognormal(size=(4, points))),
        )
        for timestamp in timestamps
    ]


if __name__ == "__main__":
    main()
