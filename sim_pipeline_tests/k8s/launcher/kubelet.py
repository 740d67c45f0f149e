"""Containers of the manifests as local processes, with what their pods would give them.

No container can be run where the tests run, so this is a stand-in for a node: images, users,
limits and a read-only root file system mean nothing to it. What it does do as a node does is to
look up what a container refers to, to mount volumes, and to end a pod.
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
# What the image brings; see the Dockerfile.
_CODE, _WORKING_DIRECTORY = "/app", "/var/lib/sim_pipeline"


@dataclass
class Node:
    """Where containers run.

    Attributes:
        directory: for volumes and output.
        manifests: the cluster's objects; ConfigMaps and Secrets are looked up here.
        arguments: arguments of containers that name addresses of the cluster, with those of this
            machine in their place.
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
        """Return a container's variables, with paths of this machine in them.

        Args:
            container: as its pod describes it.
            volumes: as `mounted` returns them.

        Raises:
            KeyError: something that it refers to does not exist.
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
                raise KeyError(f"a node would know {source}")

    def mounted(
        self, name: str, spec: dict[str, Any], container: dict[str, Any]
    ) -> dict[str, Path]:
        """Make a container's volumes; return each one's directory by where it is mounted.

        Args:
            name: the pod's.
            spec: the pod's.
            container: the one of its containers.
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
        objects = {one["metadata"]["name"]: one["data"] for one in of_kind(self.manifests, kind)}
        data: dict[str, str] = objects[name]
        return data


@dataclass(frozen=True)
class Container:
    """A container that was started.

    Attributes:
        process: it.
        output: the file with what it prints.
        grace: seconds that it is given to end.
    """

    process: "subprocess.Popen[bytes]"
    output: Path
    grace: float

    def end(self) -> None:
        """Ask it to end, as a node does with a pod that is deleted."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it, if it has not ended, and wait for that."""
        self.process.kill()
        self.process.wait()


def _local(text: str, volumes: dict[str, Path]) -> str:
    """Put paths of this machine in the place of a container's."""
    if text == _CODE or text.startswith(f"{_CODE}/") or f"={_CODE}/" in text:
        return text.replace(_CODE, str(PROJECT), 1)
    for path, directory in volumes.items():
        if text == path or text.startswith(f"{path}/"):
            return f"{directory}{text.removeprefix(path)}"
    return text
