"""Queries on manifests: the pods that they create, and the objects that the pods refer to."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sim_pipeline_tests.k8s.rendering import Manifest

COMPONENT = "app.kubernetes.io/component"
_WITH_PODS = {"Deployment", "StatefulSet", "Job"}
_REFERENCES = {
    "configMap": "ConfigMap",
    "configMapRef": "ConfigMap",
    "configMapKeyRef": "ConfigMap",
    "secret": "Secret",
    "secretRef": "Secret",
    "secretKeyRef": "Secret",
}


@dataclass(frozen=True)
class Reference:
    """A pod's reference to another object.

    Attributes:
        kind: ConfigMap, Secret or ServiceAccount.
        name: the object's name.
        key: the key in the object; None for all keys.
        optional: whether the pod can start without the object.
    """

    kind: str
    name: str
    key: str | None = None
    optional: bool = False


@dataclass(frozen=True)
class Pod:
    """A pod's template.

    Attributes:
        component: the part of the service, from its label.
        labels: the labels that policies and Services select by.
        spec: the PodSpec.
    """

    component: str
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        """Its containers, init containers included."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def ports(self) -> dict[str, int]:
        """Its declared container ports, by name."""
        return {
            port["name"]: port["containerPort"]
            for container in self.containers
            for port in container.get("ports", [])
        }

    def references(self) -> Iterator[Reference]:
        """Yield every reference in its spec."""
        yield Reference("ServiceAccount", self.spec["serviceAccountName"])
        for field, value in _fields(self.spec):
            if field in _REFERENCES:
                name = value["secretName"] if field == "secret" else value["name"]
                optional = value.get("optional", False)
                yield Reference(_REFERENCES[field], name, value.get("key"), optional)


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every field in a nested value, as name and value."""
    if isinstance(value, dict):
        yield from value.items()
    for child in value.values() if isinstance(value, dict) else value:
        if isinstance(child, dict | list):
            yield from _fields(child)


def of_kind(manifests: Sequence[Manifest], *kinds: str) -> list[Manifest]:
    """Return the manifests of the given kinds."""
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def named(manifests: Sequence[Manifest], kind: str, name: str) -> Manifest:
    """Return a manifest by kind and name; the name may end in a digest."""
    (found,) = (
        manifest
        for manifest in of_kind(manifests, kind)
        if manifest["metadata"]["name"] == name
        or manifest["metadata"]["name"].rpartition("-")[0] == name
    )
    return found


def pods(manifests: Sequence[Manifest]) -> dict[str, Pod]:
    """Return the pods that the manifests create, by component."""
    templates = [manifest["spec"]["template"] for manifest in of_kind(manifests, *_WITH_PODS)]
    return {
        template["metadata"]["labels"][COMPONENT]: Pod(
            template["metadata"]["labels"][COMPONENT],
            template["metadata"]["labels"],
            template["spec"],
        )
        for template in templates
    }
