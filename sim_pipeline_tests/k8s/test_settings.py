"""The ConfigMap `settings` is what the pipeline and its processes read."""

import os
import re
from pathlib import Path

import pytest
import yaml

from sim_pipeline.config import Settings, read_settings, variable_name
from sim_pipeline.service.supervisor import service_environment
from sim_pipeline_tests.k8s.manifests import named, pods
from sim_pipeline_tests.k8s.rendering import Manifest

VARIABLES = {variable_name(name) for name in Settings.model_fields}
PASSWORDS = {"POSTGRES_PASSWORD", "RABBITMQ_PASSWORD"}
# What libpq, Dagster and workspace.yaml read, and dagster.yaml.
OTHERS = {"PGSSLMODE", "PGSSLROOTCERT", "DAGSTER_HOME", "CODE_SERVER_HOST", "CODE_SERVER_PORT"}
# Which hosts go through no proxy, daemon and webserver add for themselves: one of them is known
# inside the cluster only.
EXEMPT = {"no_proxy", "NO_PROXY", "no_grpc_proxy"}
STORAGE = {"DAGSTER_STORAGE_HOST", "DAGSTER_STORAGE_PORT"}


@pytest.fixture
def data(manifests: list[Manifest]) -> dict[str, str]:
    found: dict[str, str] = named(manifests, "ConfigMap", "settings")["data"]
    return found


@pytest.fixture
def process_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the service of one machine sets for its processes, beside settings and places."""
    settings = Settings(log_file=tmp_path / "log")
    with monkeypatch.context() as nothing:
        for name in tuple(os.environ):
            nothing.delenv(name)
        environment = service_environment(settings, tmp_path)
    places = settings.environment().keys() | OTHERS | EXEMPT
    return {name: value for name, value in environment.items() if name not in places}


def test_every_variable_is_read_by_someone(
    data: dict[str, str], process_variables: dict[str, str]
) -> None:
    assert data.keys() <= (VARIABLES - PASSWORDS) | OTHERS | STORAGE | process_variables.keys()


def test_every_setting_is_there_but_the_passwords(data: dict[str, str]) -> None:
    assert (VARIABLES - PASSWORDS) - data.keys() <= {"UI_HOST", "UI_PORT"}


def test_the_processes_get_what_those_of_one_machine_get(
    data: dict[str, str], process_variables: dict[str, str]
) -> None:
    assert "DAGSTER_EVENT_BATCH_SIZE" in process_variables
    assert {name: data[name] for name in process_variables} == process_variables


@pytest.mark.usefixtures("clean_environment")
def test_they_load(data: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authorities = tmp_path / "ca.crt"
    authorities.touch()
    for name, value in data.items():
        monkeypatch.setenv(name, value.replace("/etc/sim_pipeline/ca/ca.crt", str(authorities)))
    monkeypatch.setenv("LOG_FILE", str(tmp_path / "log"))
    settings = read_settings()
    assert settings.local_services is False
    assert settings.postgres_host == data["POSTGRES_HOST"]


def test_in_production_both_servers_are_reached_by_tls_that_is_verified(
    production: list[Manifest],
) -> None:
    data = named(production, "ConfigMap", "settings")["data"]
    ca = "/etc/sim_pipeline/ca/ca.crt"
    assert (data["POSTGRES_SSLMODE"], data["POSTGRES_SSLROOTCERT"]) == ("verify-full", ca)
    assert (data["PGSSLMODE"], data["PGSSLROOTCERT"]) == ("verify-full", ca)
    assert (data["RABBITMQ_TLS"], data["RABBITMQ_CA_FILE"]) == ("true", ca)
    for name in ("webserver", "daemon", "code-location", "migrate"):
        pod = pods(production)[name]
        (volume,) = (one for one in pod.spec["volumes"] if one["name"] == "server-ca")
        assert volume["configMap"]["name"] == "server-ca"
        for container in pod.containers:
            if container["image"].startswith("registry.example.com/"):
                assert {
                    "name": "server-ca",
                    "mountPath": str(Path(ca).parent),
                    "readOnly": True,
                } in container["volumeMounts"]


def test_files_of_settings_are_where_pods_look_for_them(manifests: list[Manifest]) -> None:
    data = named(manifests, "ConfigMap", "settings")["data"]
    instance = named(manifests, "ConfigMap", "dagster-instance")
    assert yaml.safe_load(instance["data"]["dagster.yaml"])["storage"]
    for name in ("webserver", "daemon", "code-location", "migrate"):
        container = pods(manifests)[name].spec["containers"][0]
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert data["DAGSTER_HOME"] in mounts
        assert str(Path(data["LOG_FILE"]).parents[1]) in mounts


def test_every_variable_that_dagster_yaml_names_is_set(manifests: list[Manifest]) -> None:
    settings = named(manifests, "ConfigMap", "settings")["data"]
    instance = named(manifests, "ConfigMap", "dagster-instance")["data"]["dagster.yaml"]
    named_anywhere = set(re.findall(r"\{env: (\w+)\}", instance))
    assert {"DAGSTER_STORAGE_HOST", "POSTGRES_PASSWORD", "RUN_IMAGE"} <= named_anywhere
    for name in ("webserver", "daemon"):
        container = pods(manifests)[name].spec["containers"][0]
        assert named_anywhere <= settings.keys() | {one["name"] for one in container["env"]}
    # The others open no launcher.
    needed = set(re.findall(r"\{env: (\w+)\}", instance.partition("run_launcher:")[0]))
    for name in ("code-location", "migrate"):
        container = pods(manifests)[name].spec["containers"][0]
        assert needed <= settings.keys() | {one["name"] for one in container["env"]}
