"""Prints the messages of the dead-letter queue, or moves them back. Needs `pip install pika`.

python dead_letters.py              # prints message_id, error and body as lines of JSON
python dead_letters.py --send-back  # prints the same, and moves them back to the original queue

Reads the same variables as consumer.py.
"""

import json
import sys

from consumer import DEAD_LETTERS, QUEUE, connect, publish


def move(target: str) -> None:
    """Print each dead letter and publish it to the target queue.

    If the target is the dead-letter queue, each message moves to its end and keeps its error.
    Rejecting a message instead would count as a delivery. RabbitMQ 4 drops it at the 21st if the
    queue exists with that limit.
    """
    with connect() as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        count = channel.queue_declare(DEAD_LETTERS, passive=True).method.message_count
        for _ in range(count):
            method, properties, body = channel.basic_get(DEAD_LETTERS)
            if method is None:
                break
            headers = properties.headers or {}
            # The broker sets x-first-death-reason on messages that it moved here.
            error = headers.get("error") or headers.get("x-first-death-reason", "")
            text = body.decode(errors="replace")
            line = {"message_id": properties.message_id, "error": error, "body": text}
            print(json.dumps(line, ensure_ascii=False), flush=True)
            # Publish before acknowledging. A crash in between duplicates the message.
            stays = target == DEAD_LETTERS
            publish(channel, target, properties, body, {"error": error} if stays else None)
            channel.basic_ack(method.delivery_tag)


if __name__ == "__main__":
    move(QUEUE if sys.argv[1:] == ["--send-back"] else DEAD_LETTERS)
