"""The make targets for Kubernetes: their output, their files and their kubectl calls.

There is no cluster: a fake kubectl records its arguments.
"""

import re
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from sim_pipeline_tests.support.make import PROJECT, make

# Records each call. `get` succeeds for the objects in EXISTING, a space-separated list.
KUBECTL = """#!/bin/sh
printf '%s\\n' "$*" >> "$CALLS"
case " $* " in
*" create "*) for option; do case $option in --from-env-file=*) cat "${option#*=}";; esac; done;;
*" apply "*"--filename -"*) cat > "$CALLS.applied";;
*" get "*) for one in $EXISTING; do case " $* " in *" $one "*) exit 0;; esac; done; exit 1;;
esac
"""


@dataclass(frozen=True)
class Checkout:
    """A copy of the project's Makefile and manifests, with the fake kubectl."""

    directory: Path

    def make(
        self, *arguments: str, existing: str = "", kubectl: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        return make(
            *arguments,
            f"KUBECTL={kubectl or self.directory / 'kubectl'}",
            directory=self.directory,
            CALLS=str(self.directory / "calls"),
            EXISTING=existing,
        )

    @property
    def calls(self) -> list[str]:
        return (self.directory / "calls").read_text(encoding="utf-8").splitlines()

    @property
    def applied(self) -> str:
        """The standard input of the last `kubectl apply --filename -`."""
        return (self.directory / "calls.applied").read_text(encoding="utf-8")

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
    assert not (checkout.directory / "calls").exists()


def test_first_apply_generates_private_passwords(checkout: Checkout) -> None:
    done = checkout.make("k8s-apply")
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(checkout.credentials.stat().st_mode) == 0o600
    text = checkout.credentials.read_text(encoding="utf-8")
    found = re.fullmatch(r"POSTGRES_PASSWORD=([\w-]{32})\nRABBITMQ_PASSWORD=([\w-]{32})\n", text)
    assert found is not None
    assert found[1] != found[2]
    assert checkout.applied == text
    for password in found.groups():
        assert password not in done.stdout + done.stderr + "".join(checkout.calls)
    assert "Created k8s/overlays/local/credentials.env with generated passwords" in done.stdout
    assert "port-forward service/webserver 3000:3000" in done.stdout


def test_second_apply_keeps_passwords(checkout: Checkout) -> None:
    checkout.make("k8s-apply")
    before = checkout.credentials.read_text(encoding="utf-8")
    assert checkout.make("k8s-apply", existing="credentials").returncode == 0
    assert checkout.credentials.read_text(encoding="utf-8") == before


def test_apply_keeps_passwords_of_the_cluster(checkout: Checkout) -> None:
    assert checkout.make("k8s-apply", existing="credentials").returncode == 0
    assert not checkout.credentials.exists()
    assert not any(" create " in call for call in checkout.calls)


def test_migrations_run_before_rollout(checkout: Checkout) -> None:
    checkout.make("k8s-apply")
    kinds = [
        re.sub(r"^--namespace sim-pipeline ", "", call).split(" --", maxsplit=1)[0]
        for call in checkout.calls
    ]
    # This call runs at the same time as the apply that reads its output.
    kinds.remove("create secret generic credentials")
    assert kinds == [
        "version",
        "apply",
        "get secret credentials",
        "apply",
        "delete job migrate",
        "apply",
        "wait",
        *["rollout status"] * 3,
    ]


def fill_in(overlay: Path) -> None:
    for file in overlay.iterdir():
        text = file.read_text(encoding="utf-8")
        text = text.replace("example.com", "example.org").replace("192.0.2.", "198.51.100.")
        file.write_text(text, encoding="utf-8")


def test_production_requires_replaced_placeholders(checkout: Checkout) -> None:
    done = checkout.make("k8s-apply", "OVERLAY=production")
    assert done.returncode == 2
    *files, message, _, _ = done.stderr.splitlines()[-8:]
    assert message == "These files still contain placeholders, see docs/operations.md"
    assert {Path(file).name for file in files} == {
        "ingress.yaml",
        "kustomization.yaml",
        "network-policies.yaml",
        "oauth2-proxy.env",
        "settings.env",
    }


def test_production_requires_its_secrets(checkout: Checkout) -> None:
    fill_in(checkout.directory / "k8s" / "overlays" / "production")
    done = checkout.make("k8s-apply", "OVERLAY=production", existing="secret/credentials")
    assert done.returncode == 2
    assert "Create secret/oauth2-proxy first, see docs/operations.md" in done.stderr
    assert not any("--kustomize" in call for call in checkout.calls)
    everything = "secret/credentials secret/oauth2-proxy configmap/server-ca"
    assert checkout.make("k8s-apply", "OVERLAY=production", existing=everything).returncode == 0
    assert not checkout.credentials.exists()


def test_delete_removes_the_overlay(checkout: Checkout) -> None:
    assert checkout.make("k8s-delete", "OVERLAY=production").returncode == 0
    assert checkout.calls == [
        "version",
        "delete --kustomize k8s/overlays/production --ignore-not-found",
    ]


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
