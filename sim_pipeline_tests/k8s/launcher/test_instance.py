"""Dagster's instance on Kubernetes is that of one machine, but for what has to differ."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).parents[3]

DIFFERS = {
    # PostgreSQL itself, or a PgBouncer before it.
    "storage.custom.config.postgres_db.hostname",
    "storage.custom.config.postgres_db.port",
    # No disk is shared.
    "compute_logs.module",
    "compute_logs.class",
    # A cluster has more than one machine, and takes longer to have a run start, or end.
    "concurrency.runs.max_concurrent_runs",
    "concurrency.runs.tag_concurrency_limits",
    "run_monitoring.start_timeout_seconds",
    "run_monitoring.cancel_timeout_seconds",
}


def read(path: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((PROJECT / path).read_text(encoding="utf-8"))
    return found


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what a mapping holds at the end of each of its paths."""
    if isinstance(value, dict) and "env" not in value:
        for key, below in value.items():
            yield from leaves(below, f"{path}.{key}" if path else key)
    else:
        yield path, value


def test_what_differs_has_a_reason() -> None:
    here, cluster = dict(leaves(read("dagster.yaml"))), dict(leaves(read("k8s/base/dagster.yaml")))
    paths = here.keys() | cluster.keys()
    differing = {path for path in paths if here.get(path) != cluster.get(path)}
    assert {path for path in differing if not path.startswith("run_launcher.")} == DIFFERS


def test_a_run_has_its_grace_before_it_is_given_up() -> None:
    instance = read("k8s/base/dagster.yaml")
    pod = instance["run_launcher"]["config"]["run_k8s_config"]["pod_spec_config"]
    grace = pod["terminationGracePeriodSeconds"]
    # As much as a run on one machine gets.
    assert grace == read("dagster.yaml")["run_monitoring"]["cancel_timeout_seconds"]
    assert instance["run_monitoring"]["cancel_timeout_seconds"] > grace
