"""The view `slo_attainment` against hand-computed windows, and the table `slos` under runs."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from sim_pipeline.metrics import METRICS
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.slos import ModelSlo, save_slos
from sim_pipeline_tests.support.stored_windows import START, execute, fetch

MODEL = "GPT-4o"
# Four data points. 1 / TPS is 0.04, 0.05, 0.02 and 0.1 s.
WINDOW: dict[str, list[float]] = {
    "TTFT": [0.5, 2.0, 2.5, 1.0],
    "TPS": [25.0, 20.0, 50.0, 10.0],
    "e2e_latency": [5.0, 10.0, 4.0, 20.0],
    "RPS": [6.0, 8.0, 10.0, 16.0],
}


def write(
    postgres: Postgres, hour: int = 0, model: str = MODEL, **changes: list[float | None]
) -> None:
    for metric, values in (WINDOW | changes).items():
        execute(
            postgres,
            'INSERT INTO simulation_results (llm_name, metric, "timestamp", "values")'
            " VALUES (:model, :metric, :start, CAST(:values AS double precision[]))",
            model=model,
            metric=metric,
            start=START + timedelta(hours=hour),
            values=values,
        )


def slo(model: str = MODEL, /, **limits: float) -> ModelSlo:
    return ModelSlo(model, "chat", limits.get("ttft"), limits.get("itl"), limits.get("e2e"))


def attained(postgres: Postgres) -> list[Any]:
    return [tuple(row) for row in fetch(postgres, "SELECT * FROM slo_attainment ORDER BY 1, 2")]


@pytest.mark.parametrize(
    ("limits", "good"),
    [
        # A value equal to the limit is good.
        ({"ttft": 2.0}, 3),
        ({"ttft": 1.9999}, 2),
        ({"itl": 0.05}, 3),
        ({"itl": 0.0499}, 2),
        ({"itl": 0.04}, 2),
        ({"e2e": 10.0}, 3),
        ({"e2e": 4.0}, 1),
        # All limits must hold for the same data point.
        ({"ttft": 2.0, "itl": 0.05}, 2),
        ({"ttft": 2.0, "itl": 0.05, "e2e": 5.0}, 1),
        ({"ttft": 0.5, "itl": 0.02}, 0),
        ({"ttft": 2.5, "itl": 0.1, "e2e": 20.0}, 4),
    ],
)
def test_view_counts_points_within_all_limits(
    postgres: Postgres, limits: dict[str, float], good: int
) -> None:
    write(postgres)
    save_slos(postgres, [slo(**limits)])
    # The mean of RPS is 10 requests/s.
    assert attained(postgres) == [(MODEL, START, 4, good, good / 4, 10.0 * good / 4)]


def test_view_without_limits_takes_all_points_as_good(postgres: Postgres) -> None:
    write(postgres)
    execute(postgres, "INSERT INTO slos (llm_name, workload) VALUES (:model, 'x')", model=MODEL)
    assert attained(postgres) == [(MODEL, START, 4, 4, 1.0, 10.0)]


def test_view_never_divides_by_zero(postgres: Postgres) -> None:
    write(postgres, TPS=[0.0, float("nan"), 20.0, 20.0])
    write(postgres, hour=1, TTFT=[], TPS=[], e2e_latency=[], RPS=[])
    save_slos(postgres, [slo(itl=0.05)])
    assert attained(postgres) == [(MODEL, START, 4, 2, 0.5, 5.0)]


def test_view_takes_a_missing_value_as_not_good(postgres: Postgres) -> None:
    write(postgres, TTFT=[0.5, 0.5], e2e_latency=[None, 1.0, 1.0, 1.0])
    save_slos(postgres, [slo(ttft=2.0, e2e=5.0)])
    ((_, _, points, good, _, _),) = attained(postgres)
    assert (points, good) == (4, 1)


def test_view_leaves_out_incomplete_windows_and_models_without_limits(postgres: Postgres) -> None:
    for hour in range(3):
        write(postgres, hour)
    write(postgres, model="unlimited")
    execute(
        postgres,
        "DELETE FROM simulation_results WHERE metric = 'RPS' AND \"timestamp\" = :start",
        start=START + timedelta(hours=1),
    )
    save_slos(postgres, [slo(ttft=2.0), slo("unlimited")])
    assert [row[:2] for row in attained(postgres)] == [
        (MODEL, START),
        (MODEL, START + timedelta(hours=2)),
    ]


def test_view_reads_a_range_of_one_model_through_the_index(postgres: Postgres) -> None:
    """Also without statistics, and in a join with other windows of the model."""
    execute(
        postgres,
        """
        INSERT INTO simulation_results (llm_name, metric, "timestamp", "values")
        SELECT 'm' || m, metric, :start + hour * interval '1 hour', ARRAY[1, 1]
        FROM generate_series(0, 999) AS hour, generate_series(1, 3) AS m, unnest(:metrics) AS metric
        """,
        start=START,
        metrics=list(METRICS),
    )
    save_slos(postgres, [slo(f"m{number}", ttft=2.0) for number in (1, 2, 3)])
    day = {"since": START, "until": START + timedelta(days=1)}
    plan = fetch(
        postgres,
        "EXPLAIN SELECT * FROM slo_attainment WHERE llm_name = 'm2'"
        ' AND "timestamp" >= :since AND "timestamp" < :until',
        **day,
    )
    scans = [line for (line,) in plan if "simulation_results" in line]
    assert scans
    assert not [line for line in scans if "Seq Scan on simulation_results" in line]


def table(postgres: Postgres) -> list[Any]:
    """Return the rows of `slos` with the transactions that wrote them."""
    return [tuple(row) for row in fetch(postgres, "SELECT *, xmin::text FROM slos ORDER BY 1")]


def test_slos_are_stored_changed_and_removed(postgres: Postgres) -> None:
    save_slos(postgres, [slo("a", ttft=1.0), slo("b", itl=0.1), slo("c", e2e=9.0), slo("d")])
    assert [row[:5] for row in table(postgres)] == [
        ("a", "chat", 1.0, None, None),
        ("b", "chat", None, 0.1, None),
        ("c", "chat", None, None, 9.0),
    ]
    # One is changed, one has no limits any more, and the third belongs to another run.
    save_slos(postgres, [ModelSlo("a", "code", 1.0, None, None), slo("b")])
    assert [row[:5] for row in table(postgres)] == [
        ("a", "code", 1.0, None, None),
        ("c", "chat", None, None, 9.0),
    ]


def test_unchanged_slos_are_not_written(postgres: Postgres) -> None:
    slos = [slo("a", ttft=1), slo("b", itl=0.1), slo("c")]
    save_slos(postgres, slos)
    before = table(postgres)
    save_slos(postgres, slos)
    save_slos(postgres, [])
    assert table(postgres) == before
    save_slos(postgres, [slo("a", ttft=2), slo("b", itl=0.1)])
    after = table(postgres)
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_concurrent_runs_store_the_same_slos(postgres: Postgres) -> None:
    names = [f"m{number}" for number in range(12)]
    versions = [[slo(name, ttft=limit) for name in names] for limit in (1.0, 2.0)]
    versions[1].reverse()
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda turn: save_slos(postgres, versions[turn % 2]), range(40)):
            pass
    stored = [row[:3] for row in table(postgres)]
    assert [name for name, _, _ in stored] == sorted(names)
    assert len({limit for _, _, limit in stored}) == 1
