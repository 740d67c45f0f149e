"""The ConfigMap `settings` has exactly the variables that the service reads."""

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
# Variables for libpq, Dagster, workspace.yaml and dagster.yaml.
OTHERS = {"PGSSLMODE", "PGSSLROOTCERT", "DAGSTER_HOME", "CODE_SERVER_HOST", "CODE_SERVER_PORT"}
# Hosts that bypass a proxy. Daemon and webserver add them at startup, because the API server's host
# is known only inside the cluster.
EXEMPT = {"no_proxy", "NO_PROXY", "no_grpc_proxy"}
STORAGE = {"DAGSTER_STORAGE_HOST", "DAGSTER_STORAGE_PORT"}


@pytest.fixture
def data(manifests: list[Manifest]) -> dict[str, str]:
    found: dict[str, str] = named(manifests, "ConfigMap", "settings")["data"]
    return found


@pytest.fixture
def process_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The variables that `run` sets for its processes, without settings, paths and addresses."""
    settings = Settings(log_file=tmp_path / "log")
    with monkeypatch.context() as empty_environment:
        for name in tuple(os.environ):
            empty_environment.delenv(name)
        environment = service_environment(settings, tmp_path)
    excluded = settings.environment().keys() | OTHERS | EXEMPT
    return {name: value for name, value in environment.items() if name not in excluded}


def test_every_variable_is_used(data: dict[str, str], process_variables: dict[str, str]) -> None:
    assert data.keys() <= (VARIABLES - PASSWORDS) | OTHERS | STORAGE | process_variables.keys()


def test_contains_every_setting_except_passwords(data: dict[str, str]) -> None:
    assert (VARIABLES - PASSWORDS) - data.keys() <= {"UI_HOST", "UI_PORT"}


def test_variables_match_those_of_one_machine(
    data: dict[str, str], process_variables: dict[str, str]
) -> None:
    assert "DAGSTER_EVENT_BATCH_SIZE" in process_variables
    assert {name: data[name] for name in process_variables} == process_variables


@pytest.mark.usefixtures("clean_environment")
def test_settings_are_valid(
    data: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authorities = tmp_path / "ca.crt"
    authorities.touch()
    for name, value in data.items():
        monkeypatch.setenv(name, value.replace("/etc/sim_pipeline/ca/ca.crt", str(authorities)))
    monkeypatch.setenv("LOG_FILE", str(tmp_path / "log"))
    settings = read_settings()
    assert settings.local_services is False
    assert settings.postgres_host == data["POSTGRES_HOST"]


def test_production_verifies_tls_of_both_servers(production: list[Manifest]) -> None:
    data = named(production, "ConfigMap", "settings")["data"]
    ca = "/etc/sim_pipeline/ca/ca.crt"
    assert (data["POSTGRES_SSLMODE"], data["POSTGRES_SSLROOTCERT"]) == ("verify-full", ca)
    assert (data["PGSSLMODE"], data["PGSSLROOTCERT"]) == ("verify-full", ca)
    assert (data["RABBITMQ_TLS"], data["RABBITMQ_CA_FILE"]) == ("true", ca)
    for name in ("webserver", "daemon", "code-location", "migrate"):
        pod = pods(production)[name]
        (volume,) = (each for each in pod.spec["volumes"] if each["name"] == "server-ca")
        assert volume["configMap"]["name"] == "server-ca"
        for container in pod.containers:
            if container["image"].startswith("registry.example.com/"):
                assert {
                    "name": "server-ca",
                    "mountPath": str(Path(ca).parent),
                    "readOnly": True,
                } in container["volumeMounts"]


def test_pods_mount_their_configuration_and_logs(manifests: list[Manifest]) -> None:
    data = named(manifests, "ConfigMap", "settings")["data"]
    instance = named(manifests, "ConfigMap", "dagster-instance")
    assert yaml.safe_load(instance["data"]["dagster.yaml"])["storage"]
    for name in ("webserver", "daemon", "code-location", "migrate"):
        container = pods(manifests)[name].spec["containers"][0]
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert data["DAGSTER_HOME"] in mounts
        assert str(Path(data["LOG_FILE"]).parents[1]) in mounts


def test_variables_of_dagster_yaml_are_set(manifests: list[Manifest]) -> None:
    settings = named(manifests, "ConfigMap", "settings")["data"]
    instance = named(manifests, "ConfigMap", "dagster-instance")["data"]["dagster.yaml"]
    variables = set(re.findall(r"\{env: (\w+)\}", instance))
    assert {"DAGSTER_STORAGE_HOST", "POSTGRES_PASSWORD", "RUN_IMAGE"} <= variables
    for name in ("webserver", "daemon"):
        container = pods(manifests)[name].spec["containers"][0]
        assert variables <= settings.keys() | {each["name"] for each in container["env"]}
    # The other pods do not load the run launcher.
    needed = set(re.findall(r"\{env: (\w+)\}", instance.partition("run_launcher:")[0]))
    for name in ("code-location", "migrate"):
        container = pods(manifests)[name].spec["containers"][0]
        assert needed <= settings.keys() | {each["name"] for each in container["env"]}
