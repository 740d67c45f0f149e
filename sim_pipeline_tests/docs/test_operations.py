"""Tests that docs/operations.md is true: queries, make targets, names of objects and files."""

import re
from pathlib import Path

import pytest
import sqlalchemy as sa

from sim_pipeline.store.connection import Postgres
from sim_pipeline_tests.k8s.rendering import K8S, render

PROJECT = Path(__file__).parents[2]
TEXT = (PROJECT / "docs" / "operations.md").read_text(encoding="utf-8")
QUERIES = re.findall(r"```sql\n-- (\d), (\w+): .*?\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.parametrize(("number", "database", "query"), QUERIES)
def test_query_runs_in_its_database(
    number: str, database: str, query: str, postgres: Postgres, storage: Postgres
) -> None:
    where = {"sim_pipeline": postgres, "dagster": storage}[database]
    with where.engine.connect() as connection:
        rows = connection.execute(sa.text(query)).all()
    assert rows or number in {"2", "3", "4", "5"}


def test_alarm_table_names_each_query_once() -> None:
    assert re.findall(r"\| query (\d) \|", TEXT) == [number for number, _, _ in QUERIES]


REMEDIES = re.findall(r"(ALTER SEQUENCE [^;]+;)", TEXT)


@pytest.mark.parametrize(("remedy", "first"), list(zip(REMEDIES, [1, -(2**31)], strict=True)))
def test_ids_continue_after_remedy(postgres: Postgres, remedy: str, first: int) -> None:
    (query,) = (query for number, _, query in QUERIES if number == "8")
    with postgres.engine.begin() as connection:
        connection.exec_driver_sql("SELECT setval('simulation_results_id_seq', 2147483647)")
        assert connection.exec_driver_sql(query).scalar_one() == 0
        connection.exec_driver_sql(remedy)
        assert (
            connection.exec_driver_sql("SELECT nextval('simulation_results_id_seq')").scalar_one()
            == first
        )
        assert connection.exec_driver_sql(query).scalar_one() == 2**31 - 1 - first


def test_make_targets_exist() -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:^|`)make ([a-z0-9-]+)", TEXT, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_kubernetes_objects_exist() -> None:
    objects = {
        (manifest["kind"].lower(), manifest["metadata"]["name"])
        for manifest in [*render("local", "pgbouncer"), *render("production")]
    }
    named = re.findall(r"\b(deployment|statefulset|service|job)/([a-z-]+)", TEXT)
    assert named
    assert set(named) <= objects


def test_files_with_placeholders_are_listed() -> None:
    overlay = K8S / "overlays" / "production"
    table = TEXT.partition("| file | what to set |")[2].partition("\n\n")[0]
    files = set(re.findall(r"^\s*\| `([\w.-]+)` \|", table, flags=re.MULTILINE))
    assert files == {
        file.name
        for file in overlay.iterdir()
        if re.search(r"example\.com|192\.0\.2\.\d", file.read_text(encoding="utf-8"))
    }
