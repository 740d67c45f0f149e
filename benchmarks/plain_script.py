"""A peer of the backfill: the same work the way a small service would do it, without orchestration.

For each window of each model: simulate it, insert its four rows and commit, publish its message and
wait for the confirm. One process, one connection to each server, open all along. No ledger: what is
lost between the commit and the confirm stays lost.
"""

import json
import time
from collections.abc import Sequence
from contextlib import closing

import numpy as np
import pika
import psycopg2

from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.broker.message import format_timestamp
from sim_pipeline.metrics import METRICS
from sim_pipeline.simulator.profiles_file import read_profiles
from sim_pipeline.simulator.simulation import simulate
from sim_pipeline.store.connection import Postgres
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
    """Do it, and return how long it took, connecting not counted.

    Args:
        postgres: database at the newest schema.
        broker: where to publish; the queue is declared if it does not exist.
        llm_names: the models.
        windows: window numbers, the same for each model.
        cadence: what a window's number means.
        points: values per metric and window.
        seed: of the random numbers.

    Raises:
        psycopg2.Error: the database refused.
        pika.exceptions.AMQPError: the broker refused, or returned a message.
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
            label = cadence.start_of(window)
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
                    (name, metric, of_window[0].tolist(), label)
                    for metric, of_window in zip(METRICS, values, strict=True)
                ]
                for row in rows:
                    cursor.execute(_INSERT, row)
                database.commit()
                body = [
                    {
                        "llm_name": name,
                        "metric": metric,
                        "values": numbers,
                        "timestamp": format_timestamp(label),
                    }
                    for _, metric, numbers, _ in rows
                ]
                channel.basic_publish(
                    "", broker.queue, json.dumps(body).encode(), properties, mandatory=True
                )
        return time.perf_counter() - start
