"""The make targets for Kubernetes: their output, their files and their kubectl calls.

There is no cluster: a fake kubectl records its arguments, and answers as the test says.
"""

import json
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sim_pipeline_tests.support.make import PROJECT, make

# Answers a call with the first entry whose text is in it; an entry with several answers gives them
# one after the other, and the last one again.
KUBECTL = f"""#!{sys.executable}
import json, os, pathlib, sys
directory = pathlib.Path(os.environ["FAKE"])
call = " ".join(sys.argv[1:]).replace("--namespace sim-pipeline ", "", 1)
with (directory / "calls").open("a") as calls:
    calls.write(call + "\\n")
if call.endswith("--filename -"):
    (directory / "applied").write_text(sys.stdin.read())
answers = json.loads((directory / "answers").read_text())
for entry in answers:
    if entry[0] in call:
        status, output = entry[1].pop(0) if len(entry[1]) > 1 else entry[1][0]
        break
else:
    status, output = 0, ""
(directory / "answers").write_text(json.dumps(answers))
for word in sys.argv:
    if word.startswith("--from-env-file="):
        output = pathlib.Path(word.partition("=")[2]).read_text()
(sys.stderr if status else sys.stdout).write(output)
sys.exit(status)
"""

Answer = tuple[int, Any]
NONE: Answer = (1, "Error from server (NotFound)\n")
EMPTY: Answer = (0, {"items": []})
PENDING: Answer = (0, {"status": {}})
COMPLETE: Answer = (0, {"status": {"conditions": [{"type": "Complete", "status": "True"}]}})
WORKLOADS = (
    *("deployment.apps/code-location", "deployment.apps/daemon", "deployment.apps/webserver"),
    *("statefulset.apps/postgres", "statefulset.apps/rabbitmq"),
)
APPLIED: Answer = (0, "".join(f"{name} configured\n" for name in ("job/migrate", *WORKLOADS)))


def version(kubectl: str = "34", cluster: str = "36+") -> Answer:
    return 0, {
        "clientVersion": {"major": "1", "minor": kubectl},
        "serverVersion": {"major": "1", "minor": cluster},
    }


def namespace(overlay: str | None) -> Answer:
    labels = {} if overlay is None else {"sim-pipeline/overlay": overlay}
    return 0, {"metadata": {"name": "sim-pipeline", "labels": labels}}


def pod_of(component: str, state: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name or f"{component}-0",
            "creationTimestamp": "2026-11-27T00:00:00Z",
        },
        "status": {"containerStatuses": [{"name": component, "state": state}]},
    }


DEFAULTS: dict[str, Sequence[Answer]] = {
    "version": [version()],
    "config current-context": [(0, "the-cluster\n")],
    "get namespace": [(0, "")],
    "get deployments": [EMPTY],
    "get job migrate": [COMPLETE],
    "get pods": [EMPTY],
    "get events": [EMPTY],
    "get ": [NONE],
    "--selector=sim-pipeline/after!=migrate": [(0, "job/migrate created\n")],
    "apply --kustomize": [APPLIED],
}


@dataclass
class Checkout:
    """A copy of the project's Makefile and manifests, with the fake kubectl.

    Attributes:
        directory: the copy.
        answers: answers of kubectl, by text in the call; they precede `DEFAULTS`.
    """

    directory: Path
    answers: dict[str, Sequence[Answer]] = field(default_factory=dict)

    def make(
        self, *arguments: str, kubectl: str | None = None, typed: str = ""
    ) -> subprocess.CompletedProcess[str]:
        (self.directory / "calls").write_text("", encoding="utf-8")
        answers = [
            [
                call,
                [
                    (code, text if isinstance(text, str) else json.dumps(text))
                    for code, text in all_
                ],
            ]
            for call, all_ in {**self.answers, **DEFAULTS, **self.answers}.items()
        ]
        (self.directory / "answers").write_text(json.dumps(answers), encoding="utf-8")
        return make(
            *arguments,
            f"KUBECTL={kubectl or self.directory / 'kubectl'}",
            f"PYTHON={sys.executable}",
            directory=self.directory,
            typed=typed,
            FAKE=str(self.directory),
        )

    def deploy(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run `make k8s-apply` with short times."""
        times = f"--poll-seconds 0 --patience-seconds 0 {' '.join(options)}"
        return self.make(
            "k8s-apply", f"DEPLOY_OPTIONS=--overlay local --kubectl $(KUBECTL) {times}"
        )

    @property
    def calls(self) -> list[str]:
        return (self.directory / "calls").read_text(encoding="utf-8").splitlines()

    @property
    def changes(self) -> list[str]:
        """The calls that change the cluster."""
        words = ("apply", "delete", "create", "label")
        return [call for call in self.calls if call.split()[0] in words and "dry-run" not in call]

    @property
    def credentials(self) -> Path:
        return self.directory / "k8s/overlays/local/credentials.env"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    shutil.copy(PROJECT / "Makefile", tmp_path)
    shutil.copytree(
        PROJECT / "k8s", tmp_path / "k8s", ignore=shutil.ignore_patterns("credentials.env")
    )
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(KUBECTL, encoding="utf-8")
    kubectl.chmod(0o755)
    return Checkout(tmp_path)


@pytest.mark.parametrize("target", ["k8s-render", "k8s-apply", "k8s-delete"])
def test_missing_kubectl_is_reported(checkout: Checkout, target: str) -> None:
    done = checkout.make(target, kubectl="no-such-kubectl")
    assert done.returncode == 2
    assert "no-such-kubectl is not installed; 1.33 or newer is needed: https://" in done.stderr


def test_unknown_overlay_is_reported(checkout: Checkout) -> None:
    done = checkout.make("k8s-apply", "OVERLAY=staging")
    assert done.returncode == 2
    assert "OVERLAY=staging: allowed is one of local production" in done.stderr
    assert checkout.calls == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (version(kubectl="32"), "The version of kubectl is 1.32; 1.33 or newer is needed\n"),
        (version(cluster="29+"), "The version of the cluster is 1.29; 1.33 or newer is needed\n"),
    ],
)
def test_old_version_is_refused(checkout: Checkout, answer: Answer, message: str) -> None:
    checkout.answers["version"] = [answer]
    done = checkout.make("k8s-apply")
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert checkout.changes == []


def test_old_python_is_reported(checkout: Checkout) -> None:
    done = make("k8s-render", "PYTHON=false", directory=checkout.directory)
    assert done.returncode == 2
    assert done.stderr.startswith("Python 3.11 or newer is needed for this target.")


def test_first_apply_generates_private_passwords(checkout: Checkout) -> None:
    done = checkout.make("k8s-apply")
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(checkout.credentials.stat().st_mode) == 0o600
    text = checkout.credentials.read_text(encoding="utf-8")
    found = re.fullmatch(r"POSTGRES_PASSWORD=([\w-]{32})\nRABBITMQ_PASSWORD=([\w-]{32})\n", text)
    assert found is not None
    assert found[1] != found[2]
    assert (checkout.directory / "applied").read_text(encoding="utf-8") == text
    for password in found.groups():
        assert password not in done.stdout + done.stderr + "".join(checkout.calls)
    assert "Created k8s/overlays/local/credentials.env with generated passwords" in done.stdout
    assert "Applying the overlay local to the context the-cluster" in done.stdout
    assert "port-forward service/webserver 3000:3000" in done.stdout


def test_second_apply_keeps_passwords(checkout: Checkout) -> None:
    checkout.make("k8s-apply")
    before = checkout.credentials.read_text(encoding="utf-8")
    checkout.answers = {"get secret credentials": [(0, "")], "get namespace": [namespace("local")]}
    assert checkout.make("k8s-apply").returncode == 0
    assert checkout.credentials.read_text(encoding="utf-8") == before


def test_apply_keeps_passwords_of_the_cluster(checkout: Checkout) -> None:
    checkout.answers["get secret credentials"] = [(0, "secret/credentials\n")]
    assert checkout.make("k8s-apply").returncode == 0
    assert not checkout.credentials.exists()
    assert not any(" create " in call for call in checkout.calls)


def test_deployments_are_applied_after_the_migrations(checkout: Checkout) -> None:
    checkout.answers["get job migrate"] = [PENDING, PENDING, COMPLETE]
    assert checkout.deploy().returncode == 0
    k8s = checkout.directory / "k8s"
    assert checkout.changes == [
        f"apply --filename {k8s}/base/namespace.yaml",
        "apply --server-side --filename -",
        "delete job migrate --ignore-not-found",
        f"apply --kustomize {k8s}/overlays/local --selector=sim-pipeline/after!=migrate",
        f"apply --kustomize {k8s}/overlays/local",
    ]
    polls = [index for index, call in enumerate(checkout.calls) if "get job migrate" in call]
    assert len(polls) == 3
    assert polls[-1] < checkout.calls.index(checkout.changes[-1])


def test_failed_migration_stops_with_its_last_line(checkout: Checkout) -> None:
    failed = {"type": "Failed", "status": "True", "message": "backoff limit exceeded"}
    ended = {"terminated": {"exitCode": 1}}
    checkout.answers = {
        "get job migrate": [PENDING, (0, {"status": {"conditions": [failed]}})],
        "get pods": [(0, {"items": [pod_of("migrate", ended, "migrate-x")]})],
        "logs migrate-x": [(0, "sim_pipeline: password authentication failed\n")],
    }
    done = checkout.deploy()
    assert done.returncode == 2
    assert "  migrate-x: migrate: exit status 1: sim_pipeline: password auth" in done.stdout
    assert done.stderr.startswith(
        "The migration failed: sim_pipeline: password authentication failed\n"
        "The Deployments were not changed. "
    )
    assert "after!=migrate" in checkout.changes[-1]


def test_image_that_cannot_be_pulled_stops_with_the_reason(checkout: Checkout) -> None:
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": 'pulling image "x:2"'}}
    checkout.answers = {
        "get job migrate": [PENDING],
        "get pods": [(0, {"items": [pod_of("migrate", waiting, "migrate-x")]})],
    }
    done = checkout.deploy()
    assert done.returncode == 2
    reason = 'migrate-x: migrate: ImagePullBackOff: pulling image "x:2"\n'
    # Printed once, not at every poll.
    assert done.stdout.count(reason) == 1
    assert re.match(re.escape(reason) + r"Not ready after \d+ s. See: kubectl", done.stderr)
    assert "after!=migrate" in checkout.changes[-1]


def test_refused_migration_is_named_until_the_time_is_up(checkout: Checkout) -> None:
    events = [
        {
            "involvedObject": {"name": "migrate"},
            "message": "exceeded quota: pods",
            "lastTimestamp": "2999-01-01T00:00:00Z",
        },
        {
            "involvedObject": {"name": "migrate"},
            "message": "of an earlier attempt",
            "lastTimestamp": "2020-01-01T00:00:00Z",
        },
    ]
    checkout.answers = {"get job migrate": [PENDING], "get events": [(0, {"items": events})]}
    done = checkout.deploy("--migration-seconds 0")
    assert done.returncode == 2
    assert done.stderr.startswith("migrate: exceeded quota: pods\nNot ready after ")


def test_apply_waits_for_every_workload(checkout: Checkout) -> None:
    checkout.answers["rollout status statefulset.apps/rabbitmq"] = [(1, ""), (1, ""), (0, "")]
    done = checkout.deploy()
    assert done.returncode == 0, done.stderr
    ready = re.findall(r"^  (\S+) is ready$", done.stdout, flags=re.MULTILINE)
    assert set(ready) == {name.partition("/")[2] for name in WORKLOADS}
    assert ready[-1] == "rabbitmq"


def test_crashing_pod_stops_with_its_last_line(checkout: Checkout) -> None:
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}}
    checkout.answers = {
        "rollout status statefulset.apps/rabbitmq": [(1, "")],
        "get pods": [(0, {"items": [pod_of("rabbitmq", waiting)]})],
        "logs rabbitmq-0 --container=rabbitmq --previous --tail=1": [(0, "Read-only file system")],
    }
    done = checkout.deploy()
    assert done.returncode == 2
    assert done.stderr.startswith(
        "rabbitmq-0: rabbitmq: CrashLoopBackOff: Read-only file system\nNot ready after "
    )


PULLING = {"waiting": {"reason": "ErrImagePull", "message": "timeout"}}
CRASHED = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}


def test_pod_whose_image_is_pulled_at_last_is_not_given_up(checkout: Checkout) -> None:
    checkout.answers = {
        "rollout status deployment.apps/daemon": [(1, ""), (1, ""), (1, ""), (0, "")],
        "get pods": [
            (0, {"items": [pod]})
            for pod in (pod_of("daemon", PULLING), pod_of("daemon", {"running": {}}))
        ],
    }
    done = checkout.deploy()
    assert done.returncode == 0, done.stderr
    assert "daemon-0: daemon: ErrImagePull: timeout" in done.stdout


def test_crashing_pod_that_runs_for_a_moment_is_given_up(checkout: Checkout) -> None:
    running = pod_of("daemon", {"running": {}})
    running["status"]["containerStatuses"][0] |= {"restartCount": 1, "ready": False}
    checkout.answers = {
        "rollout status deployment.apps/daemon": [(1, ""), (1, ""), (1, ""), (0, "")],
        "get pods": [(0, {"items": [pod]}) for pod in (pod_of("daemon", CRASHED), running)],
    }
    done = checkout.deploy()
    assert done.returncode == 2
    assert "daemon-0: daemon: CrashLoopBackOff: " in done.stdout


def test_pods_that_are_not_ready_in_time_are_named(checkout: Checkout) -> None:
    checkout.answers = {
        "rollout status deployment.apps/daemon": [(1, "")],
        "get pods": [(0, {"items": [pod_of("daemon", {"running": {}})]})],
    }
    done = checkout.deploy("--rollout-seconds 0")
    assert done.returncode == 2
    assert done.stderr.startswith("daemon-0: not ready\nNot ready after ")


def test_kubectl_error_is_reported(checkout: Checkout) -> None:
    checkout.answers["delete job migrate"] = [(1, "Error from server (Forbidden): no\n")]
    done = checkout.make("k8s-apply")
    assert done.returncode == 2
    message = "kubectl delete failed: Error from server (Forbidden): no\n"
    assert done.stderr.startswith(message)


@pytest.mark.parametrize("target", ["k8s-apply", "k8s-delete"])
def test_other_overlay_is_refused(checkout: Checkout, target: str) -> None:
    checkout.answers["get namespace"] = [namespace("production")]
    done = checkout.make(target, "CONFIRM=yes")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "The namespace sim-pipeline of the context the-cluster has the overlay production, not"
        " local. For production, add OVERLAY=production\n"
    )
    assert checkout.changes == []


@pytest.mark.parametrize("target", ["k8s-apply", "k8s-delete"])
def test_installation_without_mark_is_refused(checkout: Checkout, target: str) -> None:
    checkout.answers["get namespace"] = [namespace(None)]
    checkout.answers["get deployments"] = [(0, {"items": [{}]})]
    done = checkout.make(target, "CONFIRM=yes")
    assert done.returncode == 2
    assert "  kubectl label namespace sim-pipeline sim-pipeline/overlay=local\n" in done.stderr
    assert checkout.changes == []


def fill_in(overlay: Path) -> None:
    for file in overlay.iterdir():
        text = file.read_text(encoding="utf-8")
        text = text.replace("example.com", "example.org").replace("192.0.2.", "198.51.100.")
        file.write_text(text, encoding="utf-8")


def test_production_requires_replaced_placeholders(checkout: Checkout) -> None:
    patches = checkout.directory / "k8s" / "overlays" / "production" / "patches"
    patches.mkdir()
    (patches / "host.yaml").write_text("host: db.example.com\n", encoding="utf-8")
    (patches / "logo.png").write_bytes(b"\x89PNG\xff")
    done = checkout.make("k8s-apply", "OVERLAY=production")
    assert done.returncode == 2
    files, _, _ = done.stderr.partition(
        "These files still contain placeholders, see docs/operations.md\n"
    )
    assert {Path(file).name for file in files.split()} == {
        "host.yaml",
        "ingress.yaml",
        "kustomization.yaml",
        "network-policies.yaml",
        "oauth2-proxy.env",
        "settings.env",
    }
    assert checkout.changes == []


def test_production_requires_its_secrets(checkout: Checkout) -> None:
    fill_in(checkout.directory / "k8s" / "overlays" / "production")
    checkout.answers = {"get secret/credentials": [(0, "")], "get namespace": [namespace(None)]}
    done = checkout.make("k8s-apply", "OVERLAY=production")
    assert done.returncode == 2
    assert "Create secret/oauth2-proxy first, see docs/operations.md" in done.stderr
    assert checkout.changes == []
    checkout.answers |= {"get secret/": [(0, "")], "get configmap/": [(0, "")]}
    done = checkout.make("k8s-apply", "OVERLAY=production")
    assert done.returncode == 0, done.stderr
    assert not checkout.credentials.exists()
    assert "port-forward" not in done.stdout


def test_overlay_of_ones_own_is_treated_as_production(checkout: Checkout) -> None:
    overlays = checkout.directory / "k8s" / "overlays"
    shutil.copytree(overlays / "production", overlays / "staging")
    done = checkout.make("k8s-apply", "OVERLAY=staging")
    assert done.returncode == 2
    assert "k8s/overlays/staging/settings.env\n" in done.stderr
    fill_in(overlays / "staging")
    done = checkout.make("k8s-apply", "OVERLAY=staging")
    assert done.returncode == 2
    assert "Create secret/credentials first, see docs/operations.md" in done.stderr
    assert not (overlays / "staging" / "credentials.env").exists()


def test_private_registry_requires_its_secret(checkout: Checkout) -> None:
    fill_in(checkout.directory / "k8s" / "overlays" / "production")
    checkout.answers = {
        "get secret/registry": [NONE],
        "get secret/": [(0, "")],
        "get configmap/": [(0, "")],
        "kustomize ": [(0, "imagePullSecrets:\n- name: registry\n")],
    }
    # The answer to `kubectl kustomize` must not be that to `kubectl apply --kustomize`.
    checkout.answers["apply --kustomize"] = [APPLIED]
    done = checkout.make("k8s-apply", "OVERLAY=production")
    assert done.returncode == 2
    assert "Create secret/registry first, see docs/operations.md" in done.stderr


def test_confirmed_delete_removes_the_overlay(checkout: Checkout) -> None:
    checkout.answers["get namespace"] = [namespace("production")]
    done = checkout.make("k8s-delete", "OVERLAY=production", "CONFIRM=yes")
    assert done.returncode == 0, done.stderr
    overlay = checkout.directory / "k8s/overlays/production"
    assert checkout.changes == [f"delete --kustomize {overlay} --ignore-not-found"]


@pytest.mark.parametrize(("typed", "deletes"), [("yes\n", True), ("y\n", False), ("", False)])
def test_delete_asks_first(checkout: Checkout, typed: str, deletes: bool) -> None:  # noqa: FBT001 - a parameter
    checkout.answers["get namespace"] = [namespace("local")]
    done = checkout.make("k8s-delete", typed=typed)
    assert "This deletes the namespace sim-pipeline of the context the-cluster: " in done.stdout
    assert bool(checkout.changes) is deletes
    assert done.returncode == (0 if deletes else 2)
    if not deletes:
        assert "Nothing was deleted. To delete without a question: CONFIRM=yes" in done.stderr


@pytest.mark.parametrize("target", ["k8s-apply", "k8s-delete"])
def test_unreachable_cluster_is_reported_first(checkout: Checkout, target: str) -> None:
    done = checkout.make(target, kubectl="false")
    assert done.returncode == 2
    assert done.stderr.startswith("The cluster does not answer. `kubectl config current-context` ")
    assert not checkout.credentials.exists()


def test_password_file_is_ignored_by_git() -> None:
    done = subprocess.run(
        ["git", "check-ignore", "k8s/overlays/local/credentials.env"], cwd=PROJECT, check=False
    )
    assert done.returncode == 0
