"""Prints each simulation once. Needs `pip install pika`.

Reads RABBITMQ_HOST, _PORT, _USER, _PASSWORD, _VHOST, _QUEUE, _TLS and _CA_FILE as the pipeline
does. Ends on SIGTERM or Ctrl-C. A message that `handle` fails on is put in the dead-letter queue:
see README.md beside this file.
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
# How often to try a message before it is put aside, and the pause between two tries.
ATTEMPTS = 3
PAUSE_SECONDS = 1
# Messages under way. With each crash all of them count as delivered once more, see README.md.
PREFETCH = 10
# How many message ids to remember. A message that comes again does so soon after it came first.
SEEN_IDS = int(os.environ.get("SEEN_IDS", "100000"))

ending = False
seen: dict[str, None] = {}  # in the order in which they came


def handle(body: bytes) -> None:
    """Deal with a simulation. Yours goes here.

    An exception says that this message cannot be dealt with. Wait here for what is only away for a
    while, such as a database of yours. An OSError, as of a full disk, ends the program.
    """
    results = json.loads(body)
    lines = [f"{r['llm_name']} {r['metric']} {r['timestamp']} {r['values']}" for r in results]
    print(*lines, sep="\n", flush=True)


def deal_with(channel: BlockingChannel, properties: pika.BasicProperties, body: bytes) -> bool:
    """Handle a message, or put it aside after some attempts; False when told to end before."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            handle(body)
        except OSError:
            raise  # the message is not to blame: it stays in the queue
        except Exception as error:  # noqa: BLE001 - whatever it is, it is kept with the message
            problem = f"{type(error).__name__}: {error}"
        else:
            remember(properties.message_id)
            return True
        print(f"{properties.message_id}, attempt {attempt}: {problem}", file=sys.stderr, flush=True)
        if attempt < ATTEMPTS:
            channel.connection.sleep(PAUSE_SECONDS)  # the connection is kept alive meanwhile
        if ending:
            return False
    publish(channel, DEAD_LETTERS, properties, body, {"error": problem[:1000]})
    return True


def remember(message_id: str | None) -> None:
    """Note that a simulation is dealt with; forget the oldest if there are too many."""
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
    """Put a message in a queue, as it came; raise AMQPError unless the broker has it safe."""
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
    """Declare the dead-letter queue, unless it is there: then it is used as it is."""
    try:
        connection.channel().queue_declare(DEAD_LETTERS, passive=True)
    except ChannelClosedByBroker as error:
        if error.reply_code != 404:  # noqa: PLR2004 - not found
            raise
        connection.channel().queue_declare(
            DEAD_LETTERS, durable=True, arguments={"x-queue-type": "quorum"}
        )


def consume(connection: pika.BlockingConnection) -> None:
    """Handle messages until told to end; raise when the connection or the queue is lost."""
    ensure_dead_letter_queue(connection)
    channel = connection.channel()
    channel.confirm_delivery()  # publish() returns once the broker has confirmed
    channel.basic_qos(prefetch_count=PREFETCH)
    # It yields nothing once a second, so that the end is noticed in a silent queue too.
    for method, properties, body in channel.consume(QUEUE, inactivity_timeout=1):
        if ending:
            return
        if method is None:
            continue
        if properties.message_id not in seen and not deal_with(channel, properties, body):
            return
        # After it is dealt with: if this fails, the message comes again, and is known.
        channel.basic_ack(method.delivery_tag)
    raise AMQPError(f"queue {QUEUE!r} was deleted")


def connect() -> pika.BlockingConnection:
    """Connect once; raise AMQPError if that fails."""
    # An IPv6 address may have the brackets that it has in a URL.
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
    """Let the message at hand be dealt with, then end."""
    global ending  # noqa: PLW0603
    ending = True


def pause(seconds: float) -> None:
    """Wait, but not when told to end."""
    until = time.monotonic() + seconds
    while not ending and time.monotonic() < until:
        time.sleep(0.1)  # in steps: Python goes on with a sleep that a signal interrupts


def main() -> None:
    """Connect, consume, and connect anew whenever the connection is lost."""
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    delay = 0.5
    while not ending:
        began = time.monotonic()
        try:
            with connect() as connection:
                consume(connection)
        # Also for a queue that is not there yet, or a log-in that fails: both may be mended.
        except AMQPError as error:
            if time.monotonic() - began > 60:  # noqa: PLR2004 - it had been well for a minute
                delay = 0.5
            print(f"{error!r}; next attempt within {delay} s", file=sys.stderr, flush=True)
            pause(delay * random.uniform(0.5, 1))  # noqa: S311
            delay = min(2 * delay, 30)


if __name__ == "__main__":
    main()
