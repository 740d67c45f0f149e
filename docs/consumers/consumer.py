"""Prints each simulation once. Needs `pip install pika`.

Reads the same variables as the pipeline: RABBITMQ_HOST, _PORT, _USER, _PASSWORD, _VHOST, _QUEUE,
_TLS and _CA_FILE. Ends on SIGTERM or Ctrl-C. A message that `handle` fails on is moved to the
dead-letter queue; see README.md in this directory.
"""

import json
import os
import random
import signal
import ssl
import sys
import time
from types import FrameType

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import AMQPConnectionError, AMQPError, ChannelClosedByBroker

QUEUE = os.environ.get("RABBITMQ_QUEUE", "simulation_results")
DEAD_LETTERS = f"{QUEUE}.dead-letter"
# Attempts per message before it is moved to the dead-letter queue, and the pause between them.
ATTEMPTS = 3
PAUSE_SECONDS = 1
# Messages received ahead of their acknowledgement. A crash counts as a delivery of each of them.
PREFETCH = 10
# Deliveries of a dead letter: in effect no limit. RabbitMQ 4 would drop it at the 21st, and only
# RabbitMQ 4 can be told to have no limit.
DELIVERY_LIMIT = 1_000_000_000
# Number of message ids to remember. A duplicate follows soon after the first copy.
SEEN_IDS = int(os.environ.get("SEEN_IDS", "100000"))

ending = False
seen: dict[str, None] = {}  # ids, oldest first


def handle(body: bytes) -> None:
    """Process one simulation. Replace this with your code.

    Raise an exception if the message cannot be processed. If a service is temporarily down, such as
    your database, wait for it here. An OSError, such as a full disk, ends the program.
    """
    results = json.loads(body)
    lines = [f"{r['llm_name']} {r['metric']} {r['timestamp']} {r['values']}" for r in results]
    print(*lines, sep="\n", flush=True)


def process(channel: BlockingChannel, properties: pika.BasicProperties, body: bytes) -> bool:
    """Handle a message or move it to the dead letters; return False if interrupted."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            handle(body)
        except OSError:
            raise  # not caused by the message, which stays in the queue
        except Exception as error:  # noqa: BLE001 - kept with the message
            problem = f"{type(error).__name__}: {error}"
        else:
            remember(properties.message_id)
            return True
        print(f"{properties.message_id}, attempt {attempt}: {problem}", file=sys.stderr, flush=True)
        if attempt < ATTEMPTS:
            channel.connection.sleep(PAUSE_SECONDS)  # keeps the connection alive
        if ending:
            return False
    publish(channel, DEAD_LETTERS, properties, body, {"error": problem[:1000]})
    return True


def remember(message_id: str | None) -> None:
    """Remember the id of a processed message; forget the oldest if there are too many."""
    if message_id is not None:
        seen[message_id] = None
        if len(seen) > SEEN_IDS:
            del seen[next(iter(seen))]


def publish(
    channel: BlockingChannel,
    queue: str,
    properties: pika.BasicProperties,
    body: bytes,
    headers: dict[str, str] | None = None,
) -> None:
    """Publish a copy of a message; raise AMQPError unless the broker confirms it."""
    channel.basic_publish(
        exchange="",
        routing_key=queue,
        body=body,
        properties=pika.BasicProperties(
            content_type=properties.content_type,
            delivery_mode=2,  # persistent
            message_id=properties.message_id,
            type=properties.type,
            app_id=properties.app_id,
            headers=headers,
        ),
        mandatory=True,
    )


def ensure_dead_letter_queue(connection: pika.BlockingConnection) -> None:
    """Declare the dead-letter queue if it does not exist."""
    try:
        connection.channel().queue_declare(DEAD_LETTERS, passive=True)
    except ChannelClosedByBroker as error:
        if error.reply_code != 404:  # noqa: PLR2004 - not found
            raise
        connection.channel().queue_declare(
            DEAD_LETTERS,
            durable=True,
            arguments={"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT},
        )


def consume(connection: pika.BlockingConnection) -> None:
    """Process messages until the end is requested; raise AMQPError if connection or queue fail."""
    ensure_dead_letter_queue(connection)
    channel = connection.channel()
    channel.confirm_delivery()  # publish() waits for the broker's confirm
    channel.basic_qos(prefetch_count=PREFETCH)
    # It yields None after a second without messages, so that the loop can end.
    for method, properties, body in channel.consume(QUEUE, inactivity_timeout=1):
        if ending:
            return
        if method is None:
            continue
        if properties.message_id not in seen and not process(channel, properties, body):
            return
        # After processing. If this fails, the message arrives again and its id is known.
        channel.basic_ack(method.delivery_tag)
    raise AMQPError(f"queue {QUEUE!r} was deleted")


def connect() -> pika.BlockingConnection:
    """Connect, without retries; raise AMQPError on failure."""
    # An IPv6 address may be in brackets, as in a URL.
    host = os.environ.get("RABBITMQ_HOST", "127.0.0.1").removeprefix("[").removesuffix("]")
    tls = None
    if os.environ.get("RABBITMQ_TLS", "false").lower() in {"true", "1", "yes", "on"}:
        ca_file = os.environ.get("RABBITMQ_CA_FILE") or None
        tls = pika.SSLOptions(ssl.create_default_context(cafile=ca_file), host)
    parameters = pika.ConnectionParameters(
        host=host,
        port=int(os.environ.get("RABBITMQ_PORT", "15673")),
        virtual_host=os.environ.get("RABBITMQ_VHOST", "/"),
        credentials=pika.PlainCredentials(
            os.environ.get("RABBITMQ_USER", "sim_pipeline"),
            os.environ.get("RABBITMQ_PASSWORD", ""),
        ),
        ssl_options=tls,
        heartbeat=20,
        socket_timeout=5,
    )
    try:
        return pika.BlockingConnection(parameters)
    except (AMQPConnectorException, OSError) as error:
        raise AMQPConnectionError(error) from error


def end(_signal: int, _frame: FrameType | None) -> None:
    """Request the end. The current message is still processed."""
    global ending  # noqa: PLW0603
    ending = True


def pause(seconds: float) -> None:
    """Sleep, or return early if the end is requested."""
    until = time.monotonic() + seconds
    while not ending and time.monotonic() < until:
        time.sleep(0.1)  # in steps, because Python resumes a sleep after a signal


def main() -> None:
    """Connect and consume; reconnect whenever the connection is lost."""
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    delay = 0.5
    while not ending:
        began = time.monotonic()
        try:
            with connect() as connection:
                consume(connection)
        # Also retries a missing queue and a failed login, because both can be fixed meanwhile.
        except AMQPError as error:
            if time.monotonic() - began > 60:  # noqa: PLR2004 - it worked for a minute
                delay = 0.5
            print(f"{error!r}; next attempt within {delay} s", file=sys.stderr, flush=True)
            pause(delay * random.uniform(0.5, 1))  # noqa: S311
            delay = min(2 * delay, 30)


if __name__ == "__main__":
    main()
