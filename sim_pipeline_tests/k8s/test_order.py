"""The order of an upgrade: what is applied before the migrations, and what after them."""

import json
import subprocess
import threading
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from sim_pipeline_tests.k8s.manifests import named, of_kind, pods
from sim_pipeline_tests.k8s.rendering import Manifest
from sim_pipeline_tests.support.tools import tool

WAVE = "argocd.argoproj.io/sync-wave"
OURS = {"code-location", "daemon", "webserver"}


@pytest.fixture
def api_server(manifests: list[Manifest]) -> Iterator[str]:
    """The URL of an empty cluster that knows the kinds of the manifests; a fake.

    `kubectl apply --dry-run=client` asks the cluster for its kinds, and whether objects exist.
    """
    kinds: dict[str, dict[str, Any]] = defaultdict(dict)
    for manifest in manifests:
        kind = manifest["kind"]
        kinds[manifest["apiVersion"]][kind] = {
            "name": kind.lower() + ("es" if kind.endswith("s") else "s"),
            "kind": kind,
            "namespaced": kind != "Namespace",
            "verbs": ["get"],
        }
    groups = [
        {"name": version.partition("/")[0], "versions": [{"groupVersion": version, "version": v}]}
        for version in kinds
        if (v := version.partition("/")[2])
    ]
    answers: dict[str, Any] = {
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
    }
    for version, resources in kinds.items():
        path = f"/apis/{version}" if "/" in version else f"/api/{version}"
        answers[path] = {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": version,
            "resources": list(resources.values()),
        }
    missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound"}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answers.get(self.path.partition("?")[0])
            data = json.dumps(found or {**missing, "code": 404}).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def applied(
    api_server: str, manifests: list[Manifest], directory: Path, *options: str
) -> set[tuple[str, str]]:
    """Return the kind and the name of what `kubectl apply` would apply."""
    file = directory / "manifests.yaml"
    file.write_text(yaml.safe_dump_all(manifests), encoding="utf-8")
    (directory / "config").touch()
    done = subprocess.run(
        [
            *(tool("kubectl"), "--kubeconfig", directory / "config", "--server", api_server),
            *("apply", "--filename", file, "--dry-run=client", "--validate=false"),
            *("--output=json", *options),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={"HOME": str(directory)},
    )
    assert done.returncode == 0, done.stderr
    return {(each["kind"], each["metadata"]["name"]) for each in json.loads(done.stdout)["items"]}


def test_first_part_has_everything_but_the_deployments_that_wait(
    api_server: str, manifests: list[Manifest], tmp_path: Path
) -> None:
    everything = applied(api_server, manifests, tmp_path)
    assert everything == {(each["kind"], each["metadata"]["name"]) for each in manifests}
    first = applied(api_server, manifests, tmp_path, "--selector=sim-pipeline/after!=migrate")
    waiting = OURS | ({"metrics"} if ("Deployment", "metrics") in everything else set())
    assert everything - first == {("Deployment", name) for name in waiting}
    assert ("Job", "migrate") in first


def test_argo_cd_applies_the_same_order(manifests: list[Manifest]) -> None:
    waves = {
        (each["kind"], each["metadata"]["name"]): int(
            each["metadata"].get("annotations", {}).get(WAVE, 0)
        )
        for each in manifests
    }
    assert waves.pop(("Job", "migrate")) == 1
    # Argo CD waits for the address of an Ingress, which not all controllers report.
    assert waves.pop(("Ingress", "webserver"), 3) == 3
    later = {
        (each["kind"], each["metadata"]["name"])
        for each in manifests
        if "sim-pipeline/after" in each["metadata"].get("labels", {})
    }
    assert {name for name, wave in waves.items() if wave == 2} == later
    assert {wave for name, wave in waves.items() if name not in later} == {0}
    annotations = named(manifests, "Job", "migrate")["metadata"]["annotations"]
    # A Job cannot be changed, so each sync creates it again.
    assert annotations["argocd.argoproj.io/hook"] == "Sync"
    assert annotations["argocd.argoproj.io/hook-delete-policy"] == "BeforeHookCreation"
    assert annotations["kustomize.toolkit.fluxcd.io/force"] == "enabled"


def test_config_maps_of_older_versions_are_kept(manifests: list[Manifest]) -> None:
    for name in ("settings", "dagster-instance"):
        annotations = named(manifests, "ConfigMap", name)["metadata"]["annotations"]
        assert annotations["argocd.argoproj.io/sync-options"] == "Prune=false"
        assert annotations["kustomize.toolkit.fluxcd.io/prune"] == "disabled"


def test_pods_that_need_the_schema_wait_for_it_too(manifests: list[Manifest]) -> None:
    for name in OURS:
        (init,) = pods(manifests)[name].spec["initContainers"]
        assert init["command"][-1] == "sim_pipeline.entrypoints.await_migrations"
    daemon = named(of_kind(manifests, "Deployment"), "Deployment", "daemon")
    # Two daemons would do everything twice.
    assert daemon["spec"]["strategy"] == {"type": "Recreate"}
