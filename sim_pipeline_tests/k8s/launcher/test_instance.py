"""`k8s/base/dagster.yaml` differs from `dagster.yaml` only where it must."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).parents[3]

DIFFERS = {
    # The address of PostgreSQL or of a PgBouncer.
    "storage.custom.config.postgres_db.hostname",
    "storage.custom.config.postgres_db.port",
    # The pods share no disk.
    "compute_logs.module",
    "compute_logs.class",
    # A cluster has several machines, and starts and ends runs more slowly.
    "concurrency.runs.max_concurrent_runs",
    "concurrency.runs.tag_concurrency_limits",
    "run_monitoring.start_timeout_seconds",
    "run_monitoring.cancel_timeout_seconds",
}


def read(path: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((PROJECT / path).read_text(encoding="utf-8"))
    return found


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and value of every leaf of a nested mapping."""
    if isinstance(value, dict) and "env" not in value:
        for key, below in value.items():
            yield from leaves(below, f"{path}.{key}" if path else key)
    else:
        yield path, value


def test_only_expected_options_differ() -> None:
    here, cluster = dict(leaves(read("dagster.yaml"))), dict(leaves(read("k8s/base/dagster.yaml")))
    paths = here.keys() | cluster.keys()
    differing = {path for path in paths if here.get(path) != cluster.get(path)}
    assert {path for path in differing if not path.startswith("run_launcher.")} == DIFFERS


def test_cancel_timeout_exceeds_grace_period() -> None:
    instance = read("k8s/base/dagster.yaml")
    pod = instance["run_launcher"]["config"]["run_k8s_config"]["pod_spec_config"]
    grace = pod["terminationGracePeriodSeconds"]
    # The same time as for a run on one machine.
    assert grace == read("dagster.yaml")["run_monitoring"]["cancel_timeout_seconds"]
    assert instance["run_monitoring"]["cancel_timeout_seconds"] > grace
