"""Rows that must not be published fail with a reason; consistent rows pass."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np
import pytest
from numpy.typing import NDArray

from sim_pipeline.metrics import METRICS
from sim_pipeline.store.batches import WindowBatch
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.ledger import Span
from sim_pipeline.store.validation import ValidationResult, incomplete_windows, inconsistent_windows
from sim_pipeline_tests.support.stored_windows import (
    FIRST,
    HOUR,
    START,
    batch_of,
    consistent_values,
    execute,
    message_ids,
    random_counts,
    store,
    window_starts,
)

MODELS = ("GPT-4o", "Llama-3.1-8B")
NONE = ValidationResult(0, ())
TTFT, TPS, E2E, RPS = range(4)

NOT_FINITE = "a value is not finite"
NO_TOKENS = "1 + (e2e_latency - TTFT) * TPS is not a whole number >= 2"
LENGTHS = "the four metrics have different numbers of values"


def incomplete(
    postgres: Postgres,
    windows: range,
    llm_names: Sequence[str] = MODELS,
    interval: timedelta = HOUR,
) -> ValidationResult:
    with postgres.engine.connect() as connection:
        return incomplete_windows(connection, llm_names, windows, interval)


def inconsistent(
    postgres: Postgres, llm_names: tuple[str, ...] = MODELS, start: datetime = START, hours: int = 9
) -> ValidationResult:
    with postgres.engine.connect() as connection:
        return inconsistent_windows(connection, Span(llm_names, start, start + hours * HOUR))


def store_values(postgres: Postgres, values: NDArray[np.float64]) -> None:
    count = len(values)
    store(
        postgres,
        WindowBatch(
            ["GPT-4o"] * count,
            window_starts(count),
            message_ids(count),
            values,
            random_counts(count),
            3600,
        ),
    )


# Complete


def test_windows_with_four_rows_pass(postgres: Postgres) -> None:
    store(postgres, batch_of(MODELS, window_starts(4)))
    assert incomplete(postgres, range(FIRST, FIRST + 4)) == NONE


def test_windows_that_lack_rows_fail(postgres: Postgres) -> None:
    store(postgres, batch_of(MODELS, window_starts(4)))
    execute(postgres, "DELETE FROM simulation_results WHERE id IN (5, 9, 10, 11, 12)")
    assert incomplete(postgres, range(FIRST, FIRST + 4)) == ValidationResult(
        2,
        (
            "GPT-4o 2026-11-24T01:00:00Z: 3 rows of 4",
            "GPT-4o 2026-11-24T02:00:00Z: 0 rows of 4",
        ),
    )


def test_only_requested_windows_and_models_are_checked(postgres: Postgres) -> None:
    store(postgres, batch_of(MODELS, window_starts(4)[1:3]))
    assert incomplete(postgres, range(FIRST + 1, FIRST + 3)) == NONE
    assert incomplete(postgres, range(FIRST, FIRST + 3)).windows == 2
    assert incomplete(postgres, range(FIRST + 1, FIRST + 4)).windows == 2
    assert incomplete(postgres, range(FIRST, FIRST + 4), ("GPT-4o",)).windows == 2
    assert incomplete(postgres, range(FIRST, FIRST + 4), ("another",)).windows == 4
    assert incomplete(postgres, range(FIRST, FIRST), MODELS) == NONE


def test_first_failures_are_named(postgres: Postgres) -> None:
    result = incomplete(postgres, range(FIRST, FIRST + 100))
    assert result.windows == 200
    assert result.examples == (
        "GPT-4o 2026-11-24T00:00:00Z: 0 rows of 4",
        "Llama-3.1-8B 2026-11-24T00:00:00Z: 0 rows of 4",
        "GPT-4o 2026-11-24T01:00:00Z: 0 rows of 4",
    )


@pytest.mark.parametrize("seconds", [1, 604_800])
def test_any_interval_past_2038(postgres: Postgres, seconds: int) -> None:
    interval = timedelta(seconds=seconds)
    first = 4_102_444_800 // seconds  # 2100
    start = START + (first * seconds - FIRST * 3600) * timedelta(seconds=1)
    store(postgres, batch_of(["a"], window_starts(3, start=start, step=interval)))
    assert incomplete(postgres, range(first, first + 3), ["a"], interval) == NONE
    assert incomplete(postgres, range(first - 1, first + 3), ["a"], interval).windows == 1


# Consistent


def test_consistent_values_pass(postgres: Postgres) -> None:
    store_values(postgres, consistent_values(9, points=200))
    assert inconsistent(postgres) == NONE


def test_extreme_requests_pass(postgres: Postgres) -> None:
    requests = [
        (0.3, 50.0, 0.3 + 1 / 50, 0.0),  # two tokens; no request completed in the slice
        (0.1, 1e-3, 0.1 + 1e6 / 1e-3, 1.0),  # a million tokens, slowly
        (1e-9, 1e9, 1e-9 + 7 / 1e9, 1e9),
        (200.0, 1000.0, 200.0 + 1 / 1000, 1.0),  # the small term is lost in the large one
    ]
    store_values(postgres, np.array(requests).reshape(-1, 4, 1))
    assert inconsistent(postgres) == NONE


def test_one_impossible_value_fails_its_window(postgres: Postgres) -> None:
    bad = [
        *(
            (metric, value, NOT_FINITE)
            for metric in range(4)
            for value in (np.nan, np.inf, -np.inf)
        ),
        (TTFT, 0.0, "a TTFT is not above 0"),
        (TTFT, -0.5, "a TTFT is not above 0"),
        (TPS, 0.0, "a TPS is not above 0"),
        (TPS, -1.0, "a TPS is not above 0"),
        (RPS, -1e-9, "an RPS is below 0"),
        (E2E, 0.2, "an e2e_latency is not above its TTFT"),
        (E2E, 0.1, "an e2e_latency is not above its TTFT"),
        (E2E, -1.0, "an e2e_latency is not above its TTFT"),
        (E2E, 0.25, NO_TOKENS),  # half a token
        (E2E, 0.2 + 1e-9, NO_TOKENS),  # none after the first
        (E2E, 10.21, NO_TOKENS),
        (E2E, 1e308, NO_TOKENS),  # beyond what PostgreSQL multiplies without an error
        (TPS, 1e308, NO_TOKENS),
        (TPS, 5e-324, NO_TOKENS),
    ]
    good = np.array([0.2, 10.0, 10.3, 1.0]).reshape(1, 4, 1)
    values = np.tile(good, (len(bad), 1, 5))
    for window, (metric, value, _) in enumerate(bad):
        values[window, metric, window % 5] = value
    store_values(postgres, values)
    for start, (metric, value, reason) in zip(window_starts(len(bad)), bad, strict=True):
        expected = ValidationResult(1, (f"GPT-4o {start:%Y-%m-%dT%H:%M:%SZ}: {reason}",))
        assert inconsistent(postgres, start=start, hours=1) == expected, (METRICS[metric], value)


def test_extreme_products_fail_without_sql_error(postgres: Postgres) -> None:
    large, small = [0.2, 1e308, 1e308, 1.0], [5e-324, 5e-324, 1e-323, 1.0]
    store_values(postgres, np.array([large, small]).reshape(2, 4, 1))
    assert inconsistent(postgres).windows == 2


def test_metrics_of_different_lengths_fail(postgres: Postgres) -> None:
    changes = [
        ("'{}'", METRICS, "there are no values"),
        ("'{}'", ("RPS",), LENGTHS),
        ('"values" || 1.0', ("TTFT",), LENGTHS),
        ('"values"[1:2]', ("e2e_latency",), LENGTHS),
        ('array_replace("values", "values"[2], NULL)', ("TPS",), LENGTHS),
    ]
    store_values(postgres, consistent_values(len(changes)))
    for start, (change, metrics, reason) in zip(window_starts(len(changes)), changes, strict=True):
        execute(
            postgres,
            f'UPDATE simulation_results SET "values" = {change}'
            ' WHERE "timestamp" = :start AND metric = ANY(:metrics)',
            start=start,
            metrics=list(metrics),
        )
        expected = ValidationResult(1, (f"GPT-4o {start:%Y-%m-%dT%H:%M:%SZ}: {reason}",))
        assert inconsistent(postgres, start=start, hours=1) == expected, change


def test_incomplete_windows_are_not_judged(postgres: Postgres) -> None:
    store_values(postgres, -consistent_values(2))
    execute(postgres, "DELETE FROM simulation_results WHERE id = 1")
    assert inconsistent(postgres).windows == 1


def test_only_the_span_is_checked(postgres: Postgres) -> None:
    store(postgres, batch_of(MODELS, window_starts(4)))
    execute(
        postgres,
        "UPDATE simulation_results SET \"values\" = '{-1,-1,-1,-1,-1}'"
        " WHERE llm_name = 'GPT-4o' AND \"timestamp\" = :start",
        start=START + HOUR,
    )
    assert inconsistent(postgres).windows == 1
    assert inconsistent(postgres, ("GPT-4o",), START + HOUR, 1).windows == 1
    assert inconsistent(postgres, ("Llama-3.1-8B",)) == NONE
    assert inconsistent(postgres, MODELS, START, 1) == NONE
    assert inconsistent(postgres, MODELS, START + 2 * HOUR) == NONE
    assert inconsistent(postgres, ()) == NONE


def test_thousands_of_windows(postgres: Postgres) -> None:
    """All of them are checked, and the first few are named."""
    count = 6000
    values = consistent_values(2 * count)
    values[::100, TTFT] *= -1
    store(
        postgres,
        WindowBatch(
            [name for name in MODELS for _ in range(count)],
            window_starts(count) * 2,
            message_ids(2 * count),
            values,
            random_counts(2 * count),
            3600,
        ),
    )
    result = inconsistent(postgres, hours=count)
    assert result.windows == 2 * count // 100
    assert result.examples == (
        "GPT-4o 2026-11-24T00:00:00Z: a TTFT is not above 0",
        "Llama-3.1-8B 2026-11-24T00:00:00Z: a TTFT is not above 0",
        "GPT-4o 2026-11-28T04:00:00Z: a TTFT is not above 0",
    )
    assert incomplete(postgres, range(FIRST, FIRST + count)) == NONE
