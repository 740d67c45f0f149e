"""Prints the messages of the dead-letter queue, or sends them back. Needs `pip install pika`.

python dead_letters.py              # one line of JSON each: message_id, error, body. They stay
python dead_letters.py --send-back  # likewise, and puts them in the queue that they came from

Reads the same variables as consumer.py.
"""

import json
import sys

from consumer import DEAD_LETTERS, QUEUE, connect, publish


def move(target: str) -> None:
    """Print each dead letter and put it in a queue, with its error only if it stays one.

    Those that stay go to the end of their queue. Merely to return them would count as a delivery,
    and RabbitMQ 4 drops a message at the 21st.
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
            # Where the broker itself put it there, it says why.
            error = headers.get("error") or headers.get("x-first-death-reason", "")
            text = body.decode(errors="replace")
            line = {"message_id": properties.message_id, "error": error, "body": text}
            print(json.dumps(line, ensure_ascii=False), flush=True)
            # Published before it is acknowledged: a crash between the two leaves it twice.
            stays = target == DEAD_LETTERS
            publish(channel, target, properties, body, {"error": error} if stays else None)
            channel.basic_ack(method.delivery_tag)


if __name__ == "__main__":
    move(QUEUE if sys.argv[1:] == ["--send-back"] else DEAD_LETTERS)
