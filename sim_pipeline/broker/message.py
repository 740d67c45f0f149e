"""The message of one model and window: its body as bytes, and its id.

`contract.py` describes the body for consumers. `connection.py` sets the AMQP properties.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID, uuid5

import numpy as np
import orjson
from numpy.typing import NDArray

from sim_pipeline.metrics import METRICS
from sim_pipeline.timestamps import format_timestamp

MESSAGE_TYPE: Final = "simulation_results"
"""AMQP property `type` of every message."""

APP_ID: Final = "sim_pipeline"
"""AMQP property `app_id` of every message."""

# Chosen once at random, so that our ids differ from those of every other user of UUIDv5.
_NAMESPACE: Final = UUID("11e71c36-8226-4eca-a846-ca328ab51649")


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message ready to be published.

    Attributes:
        message_id: Identifies the simulation. A message that is sent again has the same id, so that
            a consumer can drop duplicates.
        body: UTF-8 JSON, the result of `encode`.
    """

    message_id: UUID
    body: bytes


def message_id(llm_name: str, timestamp: datetime, fingerprint: str) -> UUID:
    """Return the id of a simulation. The same inputs give the same id in every process.

    A call takes about 5 microseconds. Sharing the hash of a common prefix between calls would save
    a third of that, and would need a second implementation of the id.

    Args:
        llm_name: Name of the model.
        timestamp: Start of the window; aware.
        fingerprint: Digest of everything else that the window's values depend on.

    Returns:
        UUIDv5 of `llm_name|timestamp|fingerprint`, the timestamp in UTC with six decimals and Z.
        Model names contain no vertical bar, so different inputs give different texts.

    Raises:
        ValueError: The timestamp is naive.
    """
    time = format_timestamp(timestamp, "microseconds")
    return uuid5(_NAMESPACE, f"{llm_name}|{time}|{fingerprint}")


def encode(
    llm_name: str,
    timestamp: datetime,
    values: NDArray[np.float64] | Sequence[Sequence[float]],
) -> bytes:
    """Return the body of the message of one model and window.

    Floats have the fewest digits that parse back to the same double.

    Args:
        llm_name: Name of the model.
        timestamp: Start of the window; aware.
        values: Shape (4, points): one row per metric in the order of `METRICS`. TTFT [s],
            TPS [tokens/s], e2e_latency [s], RPS [requests/s].

    Returns:
        A JSON array of four objects, each with the keys `llm_name`, `metric`, `values` and
        `timestamp`, in this order.

    Raises:
        ValueError: A value is NaN or infinite, which JSON cannot represent; the shape is wrong; or
            the timestamp is naive. The message names the model, the window and, for a value, the
            metric.
    """
    time = format_timestamp(timestamp, "microseconds")
    lengths = [len(row) for row in values]
    if len(lengths) != len(METRICS) or min(lengths) < 1 or min(lengths) < max(lengths):
        raise ValueError(
            f"{llm_name} at {time}: values must be {len(METRICS)} rows of equal length with at "
            f"least one value each, not rows of length {lengths}"
        )
    rows = np.asarray(values, dtype=np.float64)
    if not np.isfinite(rows).all():
        row, column = np.argwhere(~np.isfinite(rows))[0]
        raise ValueError(
            f"{llm_name} at {time}: {METRICS[row]}[{column}] is {rows[row, column]}; only finite "
            "values can be published"
        )
    return orjson.dumps(
        [
            {"llm_name": llm_name, "metric": metric, "values": row, "timestamp": time}
            for metric, row in zip(METRICS, rows.tolist(), strict=True)
        ]
    )
