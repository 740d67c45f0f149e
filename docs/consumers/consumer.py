"""Prints each simulation once. Needs `pip install pika`.

Reads RABBITMQ_HOST, _PORT, _USER, _PASSWORD, _VHOST, _QUEUE, _TLS and _CA_FILE as the pipeline
does. Ends on SIGTERM or Ctrl-C.
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
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import AMQPConnectionError, AMQPError

QUEUE = os.environ.get("RABBITMQ_QUEUE", "simulation_results")
# How many message ids to remember. A message that comes again does so soon after it came first.
SEEN_IDS = int(os.environ.get("SEEN_IDS", "100000"))

ending = False
seen: dict[str, None] = {}  # in the order in which they came


def handle(body: bytes) -> None:
    """Deal with a simulation. Yours goes here."""
    for result in json.loads(body):
        print(result["llm_name"], result["metric"], result["timestamp"], result["values"])
    sys.stdout.flush()


def consume(connection: pika.BlockingConnection) -> None:
    """Handle messages until told to end; raise when the connection or the queue is lost."""
    channel = connection.channel()
    channel.basic_qos(prefetch_count=100)
    # It yields nothing once a second, so that the end is noticed in a silent queue too.
    for method, properties, body in channel.consume(QUEUE, inactivity_timeout=1):
        if ending:
            return
        if method is None:
            continue
        if properties.message_id not in seen:
            handle(body)
            seen[properties.message_id] = None
            if len(seen) > SEEN_IDS:
                del seen[next(iter(seen))]
        # After it is dealt with: if this fails, the message comes again, and is known.
        channel.basic_ack(method.delivery_tag)
    raise AMQPError(f"queue {QUEUE!r} was deleted")


def connect() -> pika.BlockingConnection:
    """Connect once; raise AMQPError if that fails."""
    host = os.environ.get("RABBITMQ_HOST", "127.0.0.1")
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
