"""A baseline of the backfill: a plain script without orchestration.

For each window of each model, it simulates the window, inserts its four rows, commits, publishes
the message and waits for the confirm. It uses one process and one open connection to each server.
It has no ledger, so a message that is lost between commit and confirm stays lost.
"""

import json
import time
from collections.abc import Sequence
from contextlib import closing

import numpy as np
import pika
import psycopg2

from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.metrics import METRICS
from sim_pipeline.simulator.profiles_file import read_profiles
from sim_pipeline.simulator.simulation import simulate
from sim_pipeline.store.connection import Postgres
from sim_pipeline.timestamps import format_timestamp
from sim_pipeline.windows import Cadence

_INSERT = (
    'INSERT INTO simulation_results (llm_name, metric, "values", "timestamp")'
    ' VALUES (%s, %s, %s, %s) ON CONFLICT (llm_name, metric, "timestamp") DO NOTHING'
)


def seconds_taken(
    postgres: Postgres,
    broker: BrokerConfig,
    llm_names: Sequence[str],
    windows: range,
    cadence: Cadence,
    *,
    points: int,
    seed: int,
) -> float:
    """Run the script, and return its duration in seconds, without the time to connect.

    Args:
        postgres: a database at the newest schema.
        broker: the broker; the queue is declared if it does not exist.
        llm_names: the models.
        windows: window numbers, the same for each model.
        cadence: maps window numbers to times.
        points: values per metric and window.
        seed: the seed of the random numbers.

    Raises:
        psycopg2.Error: an error of the database.
        pika.exceptions.AMQPError: an error of the broker, or a returned message.
    """
    profiles = read_profiles(None, llm_names)
    properties = pika.BasicProperties(content_type="application/json", delivery_mode=2)
    with (
        closing(
            psycopg2.connect(
                host=postgres.host,
                port=postgres.port,
                user=postgres.user,
                password=postgres.password,
                dbname=postgres.database,
            )
        ) as database,
        database.cursor() as cursor,
        pika.BlockingConnection(
            pika.ConnectionParameters(
                broker.host,
                broker.port,
                broker.vhost,
                pika.PlainCredentials(broker.user, broker.password),
            )
        ) as connection,
    ):
        channel = connection.channel()
        channel.queue_declare(broker.queue, durable=True, arguments={"x-queue-type": "quorum"})
        channel.confirm_delivery()
        start = time.perf_counter()
        for window in windows:
            window_start = cadence.start_of(window)
            for name in llm_names:
                result = simulate(
                    profiles[name],
                    np.array([window]),
                    interval=cadence.interval,
                    points=points,
                    seed=seed,
                )
                values = (result.ttft, result.tps, result.e2e_latency, result.rps)
                rows = [
                    (name, metric, window_values[0].tolist(), window_start)
                    for metric, window_values in zip(METRICS, values, strict=True)
                ]
                for row in rows:
                    cursor.execute(_INSERT, row)
                database.commit()
                body = [
                    {
                        "llm_name": name,
                        "metric": metric,
                        "values": numbers,
                        "timestamp": format_timestamp(window_start, "microseconds"),
                    }
                    for _, metric, numbers, _ in rows
                ]
                channel.basic_publish(
                    "", broker.queue, json.dumps(body).encode(), properties, mandatory=True
                )
        return time.perf_counter() - start
