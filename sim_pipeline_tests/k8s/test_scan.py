"""checkov finds nothing in the manifests and the Dockerfile; every skipped rule has a reason."""

import copy
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from sim_pipeline_tests.k8s.manifests import named
from sim_pipeline_tests.k8s.rendering import Manifest
from sim_pipeline_tests.support.tools import tool

PROJECT = Path(__file__).parents[2]
CONFIG = PROJECT / "k8s" / "checkov.yaml"
DOCKERFILE = PROJECT / "Dockerfile"
# Makes every network request fail.
UNREACHABLE_PROXY = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")


def scan(framework: str, file: Path) -> Any:
    done = subprocess.run(
        [
            *(tool("checkov"), "--config-file", CONFIG, "--framework", framework),
            *("--file", file, "--output", "json"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **UNREACHABLE_PROXY, "CKV_SKIP_PACKAGE_UPDATE_CHECK": "true"},
    )
    return json.loads(done.stdout)


def failures(report: Any) -> list[str]:
    return [
        f"{check['check_id']} {check['resource']}: {check['check_name']}"
        for check in report["results"]["failed_checks"]
    ]


def test_manifests_have_no_findings(manifests: list[Manifest], tmp_path: Path) -> None:
    file = tmp_path / "manifests.yaml"
    file.write_text(yaml.safe_dump_all(manifests), encoding="utf-8")
    report = scan("kubernetes", file)
    assert failures(report) == []
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["resource_count"] >= len(manifests)


def test_privileged_container_is_found(local: list[Manifest], tmp_path: Path) -> None:
    wrong = copy.deepcopy(local)
    job = named(wrong, "Job", "migrate")
    job["spec"]["template"]["spec"]["containers"][0]["securityContext"]["privileged"] = True
    file = tmp_path / "manifests.yaml"
    file.write_text(yaml.safe_dump_all(wrong), encoding="utf-8")
    (found,) = failures(scan("kubernetes", file))
    assert found.startswith("CKV_K8S_16 Job.sim-pipeline.migrate: ")


def test_dockerfile_has_no_findings() -> None:
    assert failures(scan("dockerfile", DOCKERFILE)) == []


def test_globally_skipped_rules_have_reasons() -> None:
    lines = CONFIG.read_text(encoding="utf-8").partition("skip-check:\n")[2].splitlines()
    rules = [number for number, line in enumerate(lines) if line.startswith("  - ")]
    assert len(rules) == len(yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["skip-check"])
    for number in rules:
        assert number > 0
        assert re.fullmatch(r"  # .*\.", lines[number - 1]), lines[number]


def test_rules_skipped_by_resources_have_reasons(manifests: list[Manifest]) -> None:
    skips = [
        value
        for manifest in manifests
        for name, value in manifest["metadata"].get("annotations", {}).items()
        if name.startswith("checkov.io/skip")
    ]
    assert skips
    for skip in skips:
        assert re.fullmatch(r"CKV\w+=\w+( [\w',]+){3,}", skip), skip
