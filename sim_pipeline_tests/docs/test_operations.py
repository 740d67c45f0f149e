"""Tests that docs/operations.md is true: queries, make targets, names of objects and files."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import sqlalchemy as sa
import yaml
from dagster_k8s.job import UserDefinedDagsterK8sConfig

from sim_pipeline.store.connection import Postgres
from sim_pipeline_tests.k8s.rendering import K8S, render
from sim_pipeline_tests.k8s.test_schemas import validate
from sim_pipeline_tests.support.certificates import Authority
from sim_pipeline_tests.support.tools import tool

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


# Refuses what a cluster without the namespace refuses; otherwise asks the real kubectl.
KUBECTL = """#!/bin/sh
case "$*" in
*"--filename k8s/base/namespace.yaml"*) exec touch created;;
esac
test -e created || exit 1
case "$*" in
*" create "*) exec {kubectl} "$@" --dry-run=client --output=name;;
esac
"""


def test_production_commands_work_line_by_line(tmp_path: Path) -> None:
    section = TEXT.partition("## Install in production")[2].partition("## Backfill")[0]
    blocks = re.findall(r"^ *```sh\n(.*?)```", section, flags=re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", "").splitlines()
    (tmp_path / "kubectl").write_text(KUBECTL.format(kubectl=tool("kubectl")), encoding="utf-8")
    (tmp_path / "kubectl").chmod(0o755)
    for name in ("credentials.env", "oauth2-proxy.env"):
        (tmp_path / name).write_text("NAME=value\n", encoding="utf-8")
    (tmp_path / "config.json").write_text('{"auths": {}}', encoding="utf-8")
    authority = Authority.make(tmp_path)
    authority.server_context("localhost")
    for name in ("tls.crt", "tls.key"):
        shutil.copy(tmp_path / "localhost.pem", tmp_path / name)
    shutil.copy(authority.ca_file, tmp_path / "ca.crt")
    created = []
    for line in lines:
        done = subprocess.run(
            ["sh", "-c", line],
            cwd=tmp_path,
            env={"PATH": f"{tmp_path}:{os.defpath}", "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (line, done.stderr)
        created += done.stdout.split()
    assert created == [
        *("secret/credentials", "secret/oauth2-proxy", "secret/webserver-tls"),
        *("configmap/server-ca", "secret/registry"),
    ]


def test_commands_without_make_have_the_order_of_make() -> None:
    (block,) = re.findall(r"With kubectl alone.*?```sh\n(.*?)```", TEXT, flags=re.DOTALL)
    first, before, waits, everything = block.splitlines()
    deploy = (K8S / "deploy.py").read_text(encoding="utf-8")
    assert "delete job migrate" in first
    assert "--selector='sim-pipeline/after!=migrate'" in before
    assert 'AFTER_MIGRATIONS = "sim-pipeline/after"' in deploy
    assert "wait --for=condition=complete" in waits
    assert everything == "kubectl apply --kustomize k8s/overlays/production"


def test_placement_example_is_the_spec_of_a_pod(tmp_path: Path) -> None:
    (block,) = re.findall(r"Nodes and priority.*?```yaml\n(.*?)```", TEXT, flags=re.DOTALL)
    fields = yaml.safe_load(block)
    assert UserDefinedDagsterK8sConfig(pod_spec_config=fields).pod_spec_config
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "example"},
        "spec": {**fields, "containers": [{"name": "run", "image": "run:1.0"}]},
    }
    done = validate([pod], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_with_placeholders_are_listed() -> None:
    overlay = K8S / "overlays" / "production"
    table = TEXT.partition("| file | what to set |")[2].partition("\n\n")[0]
    files = set(re.findall(r"^\s*\| `([\w.-]+)` \|", table, flags=re.MULTILINE))
    assert files == {
        file.name
        for file in overlay.iterdir()
        if re.search(r"example\.com|192\.0\.2\.\d", file.read_text(encoding="utf-8"))
    }
