"""Renders overlays with kustomize, as `kubectl apply --kustomize` does."""

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

from sim_pipeline_tests.support.tools import tool

K8S = Path(__file__).parents[2] / "k8s"

Manifest = dict[str, Any]


def render(overlay: str, *components: str) -> list[Manifest]:
    """Return an overlay's manifests, with additional components.

    Args:
        overlay: a directory of `k8s/overlays`.
        components: directories of `k8s/components`.

    Raises:
        RuntimeError: kustomize rejects the overlay; the message is kustomize's.
    """
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "k8s"
        shutil.copytree(K8S, copy)
        path = copy / "overlays" / overlay / "kustomization.yaml"
        kustomization = yaml.safe_load(path.read_text(encoding="utf-8"))
        kustomization.setdefault("components", []).extend(
            f"../../components/{component}" for component in components
        )
        path.write_text(yaml.safe_dump(kustomization), encoding="utf-8")
        done = subprocess.run(
            [tool("kubectl"), "kustomize", str(path.parent)],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return list(yaml.safe_load_all(done.stdout))
