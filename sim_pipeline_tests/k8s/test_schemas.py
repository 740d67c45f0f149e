"""The manifests match Kubernetes' schemas and have no unknown fields."""

import copy
import subprocess
from pathlib import Path

import pytest
import yaml

from sim_pipeline_tests.k8s.manifests import named
from sim_pipeline_tests.k8s.rendering import Manifest
from sim_pipeline_tests.support.tools import tool

# The oldest version that any vendor still supports, and the newest.
VERSIONS = ("1.33.0", "1.37.0")


def validate(
    manifests: list[Manifest], directory: Path, version: str = VERSIONS[-1]
) -> subprocess.CompletedProcess[str]:
    file = directory / "manifests.yaml"
    file.write_text(yaml.safe_dump_all(manifests), encoding="utf-8")
    return subprocess.run(
        [tool("kubernetes-validate"), "--strict", "--kubernetes-version", version, file],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_valid(manifests: list[Manifest], version: str, tmp_path: Path) -> None:
    # Prometheus' operator defines its own kinds; test_metrics.py tests these.
    known = [each for each in manifests if not each["apiVersion"].startswith("monitoring.coreos")]
    done = validate(known, tmp_path, version)
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("passed for resource") == len(known)


def test_unknown_field_is_found(local: list[Manifest], tmp_path: Path) -> None:
    wrong = copy.deepcopy(local)
    named(wrong, "Deployment", "daemon")["spec"]["template"]["spec"]["restartPolicies"] = "Always"
    done = validate(wrong, tmp_path)
    assert done.returncode == 1
    assert "restartPolicies" in done.stdout + done.stderr
