"""The optional components, and what the manifests give to real clusters."""

import re
import tomllib
from pathlib import Path

from sim_pipeline_tests.entrypoints.test_metrics import names_of
from sim_pipeline_tests.k8s.conftest import rendered
from sim_pipeline_tests.k8s.manifests import named, of_kind, pods
from sim_pipeline_tests.k8s.rendering import Manifest

PROJECT = Path(__file__).parents[2]


def test_all_pods_and_runs_pull_with_the_registry_secret(
    variant: str, manifests: list[Manifest]
) -> None:
    expected = [{"name": "registry"}] if variant.endswith("with all") else None
    accounts = of_kind(manifests, "ServiceAccount")
    # A run's pod has the account `run`; a pod without pull secrets gets those of its account.
    assert {"run"} | pods(manifests).keys() == {each["metadata"]["name"] for each in accounts}
    for account in accounts:
        assert account.get("imagePullSecrets") == expected
    for pod in pods(manifests).values():
        assert "imagePullSecrets" not in pod.spec


def test_placement_applies_to_all_pods_and_runs(variant: str, manifests: list[Manifest]) -> None:
    is_placed = variant.endswith("with all")
    for pod in pods(manifests).values():
        assert pod.spec.get("nodeSelector") == (
            {"kubernetes.io/os": "linux"} if is_placed else None
        )
        # The patch keeps the other fields.
        assert pod.spec["securityContext"]["runAsNonRoot"] is True
    files = named(manifests, "ConfigMap", "dagster-instance")["data"]
    assert files.keys() == {"dagster.yaml", "run_pods.yaml"} if is_placed else {"dagster.yaml"}


def test_versions_are_those_of_the_project(production: list[Manifest]) -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version = project["version"]
    label = "app.kubernetes.io/version"
    for manifest in production:
        if manifest["kind"] in {"Deployment", "Job"}:
            assert manifest["metadata"]["labels"][label] == version
            assert manifest["spec"]["template"]["metadata"]["labels"][label] == version
            assert label not in manifest["spec"].get("selector", {}).get("matchLabels", {})
    image = pods(production)["daemon"].spec["containers"][0]["image"]
    assert image.rpartition(":")[2] == version


def test_namespace_names_its_overlay(variant: str, manifests: list[Manifest]) -> None:
    labels = named(manifests, "Namespace", "sim-pipeline")["metadata"]["labels"]
    assert labels["sim-pipeline/overlay"] == variant.split(maxsplit=1)[0]


def test_webserver_ends_after_its_proxy(manifests: list[Manifest]) -> None:
    spec = pods(manifests)["webserver"].spec
    pauses = [each["lifecycle"]["preStop"]["sleep"]["seconds"] for each in spec["containers"]]
    assert pauses == sorted(pauses, reverse=True)
    assert len(set(pauses)) == len(pauses)
    assert spec["terminationGracePeriodSeconds"] > 2 * max(pauses)


def test_proxy_may_start_slowly(production: list[Manifest]) -> None:
    _, proxy = pods(production)["webserver"].spec["containers"]
    assert proxy["startupProbe"]["httpGet"] == proxy["livenessProbe"]["httpGet"]


def test_ingress_names_its_class(production: list[Manifest]) -> None:
    (ingress,) = of_kind(production, "Ingress")
    assert ingress["spec"]["ingressClassName"] == "class.example.com"


def test_rabbitmq_may_write_logs(local: list[Manifest]) -> None:
    (container,) = pods(local)["rabbitmq"].spec["containers"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert not mounts["/var/log/rabbitmq"].get("readOnly")


def test_rules_use_metrics_that_exist() -> None:
    manifests = rendered("local with all")
    (rules,) = of_kind(manifests, "PrometheusRule")
    (group,) = rules["spec"]["groups"]
    used = {
        name
        for rule in group["rules"]
        for name in re.findall(r"\b(?:sim_pipeline|kube)_\w+", rule["expr"])
    }
    from_kube_state_metrics = {name for name in used if name.startswith("kube_")}
    assert from_kube_state_metrics == {"kube_job_failed", "kube_pod_status_ready", "kube_pod_owner"}
    assert used - from_kube_state_metrics <= names_of()
    for rule in group["rules"]:
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in {"warning", "critical"}


def test_monitor_selects_the_service_of_the_metrics() -> None:
    manifests = rendered("production with all")
    (monitor,) = of_kind(manifests, "ServiceMonitor")
    service = named(manifests, "Service", "metrics")
    selected = monitor["spec"]["selector"]["matchLabels"]
    assert selected.items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
