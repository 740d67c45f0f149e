"""The message: one per model and window, as bytes, and the id it carries.

What a message looks like is fixed here and described for consumers in `contract.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID, uuid5

import numpy as np
import orjson
from numpy.typing import NDArray

from sim_pipeline.metrics import METRICS

MESSAGE_TYPE: Final = "simulation_results"
"""AMQP property `type` of every message."""

APP_ID: Final = "sim_pipeline"
"""AMQP property `app_id` of every message."""

# Made once, at random: ids of this pipeline cannot meet those of any other user of UUIDv5.
_NAMESPACE: Final = UUID("11e71c36-8226-4eca-a846-ca328ab51649")


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message ready to be published.

    Attributes:
        message_id: Identifies the simulation. A message that is sent again keeps it, so that a
            consumer can drop what it has seen.
        body: UTF-8 JSON as `encode` makes it.
    """

    message_id: UUID
    body: bytes


def message_id(llm_name: str, timestamp: datetime, fingerprint: str) -> UUID:
    """The id of a model's window: the same for the same simulation, whoever computes it.

    About 5 microseconds. A bulk form that shares the hash of a common prefix saves a third of it,
    which is not worth a second way to the same id.

    Args:
        llm_name: Name of the model.
        timestamp: Start of the window; aware.
        fingerprint: Digest of everything else that the window's values depend on.

    Returns:
        UUIDv5 of `llm_name|timestamp|fingerprint`, the timestamp as `format_timestamp` writes it.
        No model's name has a vertical bar, so no two different triples read the same.

    Raises:
        ValueError: The timestamp is naive.
    """
    return uuid5(_NAMESPACE, f"{llm_name}|{format_timestamp(timestamp)}|{fingerprint}")


def format_timestamp(timestamp: datetime) -> str:
    """UTC in ISO 8601, always six decimals and Z: `2024-09-27T11:29:13.291565Z`.

    Raises:
        ValueError: The timestamp is naive.
    """
    if timestamp.tzinfo is None:
        raise ValueError(f"a timestamp needs a zone, {timestamp.isoformat()} has none")
    return timestamp.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def encode(
    llm_name: str,
    timestamp: datetime,
    values: NDArray[np.float64] | Sequence[Sequence[float]],
) -> bytes:
    """The body of the message of one model and window.

    Floats are written with as few digits as give back the same double.

    Args:
        llm_name: Name of the model.
        timestamp: Start of the window; aware.
        values: Shape (4, points): one row per metric in the order of `METRICS`. TTFT [s],
            TPS [tokens/s], e2e_latency [s], RPS [requests/s].

    Returns:
        A JSON array of four objects, each with exactly `llm_name`, `metric`, `values` and
        `timestamp`, in this order.

    Raises:
        ValueError: A value is NaN or infinite, which JSON cannot say; the shape is another; the
            timestamp is naive. Names model, window and, for a value, the metric.
    """
    time = format_timestamp(timestamp)
    lengths = [len(row) for row in values]
    if len(lengths) != len(METRICS) or min(lengths) < 1 or min(lengths) < max(lengths):
        raise ValueError(
            f"{llm_name} at {time}: values must be {len(METRICS)} rows of one length, at least "
            f"one value each, not rows of {lengths}"
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
