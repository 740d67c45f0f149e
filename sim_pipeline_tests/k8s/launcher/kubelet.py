"""A fake node: runs the containers of the manifests as local processes.

The tests cannot run containers. Like a node, it resolves references to ConfigMaps and Secrets,
provides volumes, and ends pods. It ignores images, users, limits and read-only file
systems.
"""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sim_pipeline_tests.k8s.manifests import of_kind
from sim_pipeline_tests.k8s.rendering import Manifest

PROJECT = Path(__file__).parents[3]
# Paths in the image, see the Dockerfile.
_CODE, _WORKING_DIRECTORY = "/app", "/var/lib/sim_pipeline"


@dataclass
class Node:
    """Runs containers.

    Attributes:
        directory: holds volumes and output.
        manifests: the cluster's objects, with the ConfigMaps and Secrets.
        arguments: local replacements of container arguments that contain cluster addresses.
    """

    directory: Path
    manifests: list[Manifest]
    arguments: dict[str, str] = field(default_factory=dict)

    def run(self, name: str, pod: dict[str, Any]) -> "Container":
        """Start the only container of a pod."""
        (container,) = pod["spec"]["containers"]
        volumes = self.mounted(name, pod["spec"], container)
        output = self.directory / f"{name}.log"
        command = [*container.get("command", []), *container.get("args", [])]
        with output.open("wb") as file:
            process = subprocess.Popen(
                [_local(self.arguments.get(word, word), volumes) for word in command],
                env={
                    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}",
                    **self.environment(container, volumes),
                },
                cwd=_local(_WORKING_DIRECTORY, volumes),
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        return Container(process, output, pod["spec"].get("terminationGracePeriodSeconds", 30))

    def environment(self, container: dict[str, Any], volumes: dict[str, Path]) -> dict[str, str]:
        """Return a container's variables, with paths of this machine.

        Args:
            container: the container's part of the PodSpec.
            volumes: the result of `mounted`.

        Raises:
            KeyError: a referenced object does not exist.
        """
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            found |= self._data("ConfigMap", source["configMapRef"]["name"])
        for variable in container.get("env", []):
            found[variable["name"]] = self._value(variable)
        return {name: _local(value, volumes) for name, value in found.items()}

    def _value(self, variable: dict[str, Any]) -> str:
        match variable.get("valueFrom"):
            case None:
                return str(variable["value"])
            case {"secretKeyRef": {"name": name, "key": key}}:
                return self._data("Secret", name)[key]
            case {"fieldRef": {"fieldPath": "metadata.namespace"}}:
                return "sim-pipeline"
            case source:
                raise KeyError(f"this fake node does not support {source}")

    def mounted(
        self, name: str, spec: dict[str, Any], container: dict[str, Any]
    ) -> dict[str, Path]:
        """Create a container's volumes; return their directories by mount path.

        Args:
            name: the pod's name.
            spec: the PodSpec.
            container: the container's part of the PodSpec.
        """
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        found = {}
        for mount in container["volumeMounts"]:
            volume = volumes[mount["name"]]
            directory = self.directory / name / mount["name"]
            directory.mkdir(parents=True)
            if "configMap" in volume and not volume["configMap"].get("optional"):
                for file, text in self._data("ConfigMap", volume["configMap"]["name"]).items():
                    (directory / file).write_text(text, encoding="utf-8")
            found[mount["mountPath"]] = directory
        return found

    def _data(self, kind: str, name: str) -> dict[str, str]:
        objects = {each["metadata"]["name"]: each["data"] for each in of_kind(self.manifests, kind)}
        data: dict[str, str] = objects[name]
        return data


@dataclass(frozen=True)
class Container:
    """A started container.

    Attributes:
        process: its process.
        output: the file with its output.
        grace: its termination grace period, in seconds.
    """

    process: "subprocess.Popen[bytes]"
    output: Path
    grace: float

    def end(self) -> None:
        """Send SIGTERM, as a node does when a pod is deleted."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it if it still runs, and wait for its end."""
        self.process.kill()
        self.process.wait()


def _local(text: str, volumes: dict[str, Path]) -> str:
    """Replace a container's path with the path on this machine."""
    if text == _CODE or text.startswith(f"{_CODE}/") or f"={_CODE}/" in text:
        return text.replace(_CODE, str(PROJECT), 1)
    for path, directory in volumes.items():
        if text == path or text.startswith(f"{path}/"):
            return f"{directory}{text.removeprefix(path)}"
    return text
