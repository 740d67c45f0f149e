"""The body and the id of a message."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim_pipeline.broker.message import encode, message_id
from sim_pipeline.metrics import METRICS
from sim_pipeline.timestamps import format_timestamp

TIMESTAMP = datetime(2024, 9, 27, 11, 29, 13, 291565, tzinfo=UTC)


def test_body_is_four_objects_with_ordered_keys() -> None:
    body = encode("GPT-4o", TIMESTAMP, [[0.5, 1], [80.0, 79.25], [2.0, 3.0], [0.1, 1e-7]])

    assert body == (
        b'[{"llm_name":"GPT-4o","metric":"TTFT","values":[0.5,1.0],'
        b'"timestamp":"2024-09-27T11:29:13.291565Z"},'
        b'{"llm_name":"GPT-4o","metric":"TPS","values":[80.0,79.25],'
        b'"timestamp":"2024-09-27T11:29:13.291565Z"},'
        b'{"llm_name":"GPT-4o","metric":"e2e_latency","values":[2.0,3.0],'
        b'"timestamp":"2024-09-27T11:29:13.291565Z"},'
        b'{"llm_name":"GPT-4o","metric":"RPS","values":[0.1,1e-7],'
        b'"timestamp":"2024-09-27T11:29:13.291565Z"}]'
    )


def test_arrays_and_lists_encode_alike() -> None:
    values = np.random.default_rng(0).lognormal(size=(4, 7))

    assert encode("m", TIMESTAMP, values) == encode("m", TIMESTAMP, values.tolist())


@given(
    st.lists(
        st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * len(METRICS)), min_size=1
    )
)
def test_doubles_round_trip_exactly(points: list[tuple[float, ...]]) -> None:
    values = np.array(points).T

    decoded = [series["values"] for series in orjson.loads(encode("m", TIMESTAMP, values))]

    assert np.array(decoded).tobytes() == np.ascontiguousarray(values).tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_value_is_rejected(value: float) -> None:
    values = np.ones((4, 5))
    values[2, 3] = value

    with pytest.raises(
        ValueError, match=rf"GPT-4o at 2024-09-27T11:29:13.291565Z: e2e_latency\[3\] is {value}"
    ):
        encode("GPT-4o", TIMESTAMP, values)


@pytest.mark.parametrize(
    "values", [[[1.0]] * 3, [[1.0]] * 5, [[]] * 4, [[1.0], [1.0, 2.0], [1.0], [1.0]]]
)
def test_wrong_shape_is_rejected(values: list[list[float]]) -> None:
    with pytest.raises(ValueError, match=r"m at 2024.* must be 4 rows of equal length"):
        encode("m", TIMESTAMP, values)


@pytest.mark.parametrize(
    ("timestamp", "text"),
    [
        (TIMESTAMP, "2024-09-27T11:29:13.291565Z"),
        (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00.000000Z"),
        (
            datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=5))),
            "2025-12-31T21:00:00.000000Z",
        ),
    ],
)
def test_timestamps_have_six_decimals_and_z(timestamp: datetime, text: str) -> None:
    assert format_timestamp(timestamp, "microseconds") == text


def test_a_naive_timestamp_is_refused() -> None:
    with pytest.raises(ValueError, match="2026-01-01T00:00:00 has none"):
        format_timestamp(datetime(2026, 1, 1))  # noqa: DTZ001 - the point of the test


def test_message_id_never_changes() -> None:
    # Ids are stored and published, so every later version must compute the same ones.
    assert message_id("GPT-4o", TIMESTAMP, "f00d") == UUID("58dd6d4d-7a93-57cc-9f81-d4474b69d35d")


def test_message_id_ignores_the_time_zone() -> None:
    elsewhere = TIMESTAMP.astimezone(timezone(timedelta(hours=-7)))

    assert message_id("GPT-4o", elsewhere, "f00d") == message_id("GPT-4o", TIMESTAMP, "f00d")


def test_message_id_depends_on_each_argument() -> None:
    found = {
        message_id(model, timestamp, fingerprint)
        for model in ("a", "b")
        for timestamp in (TIMESTAMP, TIMESTAMP + timedelta(microseconds=1))
        for fingerprint in ("1", "2")
    }

    assert len(found) == 8
    assert {uuid.version for uuid in found} == {5}
