"""Manifests read as Kubernetes reads them: whose pods there are, and what they are given."""

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
    """What a pod refers to.

    Attributes:
        kind: ConfigMap, Secret or ServiceAccount.
        name: of the object.
        key: which of its keys; None for all.
        optional: whether the pod starts without it.
    """

    kind: str
    name: str
    key: str | None = None
    optional: bool = False


@dataclass(frozen=True)
class Pod:
    """A pod's template.

    Attributes:
        component: which part of the service it is.
        labels: by which policies and Services select it.
        spec: its PodSpec.
    """

    component: str
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        """Its containers, those that only start it included."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def ports(self) -> dict[str, int]:
        """The ports it says it listens on, by name."""
        return {
            port["name"]: port["containerPort"]
            for container in self.containers
            for port in container.get("ports", [])
        }

    def references(self) -> Iterator[Reference]:
        """Yield the objects that it refers to, wherever in its spec."""
        yield Reference("ServiceAccount", self.spec["serviceAccountName"])
        for field, value in _fields(self.spec):
            if field in _REFERENCES:
                name = value["secretName"] if field == "secret" else value["name"]
                optional = value.get("optional", False)
                yield Reference(_REFERENCES[field], name, value.get("key"), optional)


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every field below a value, with what it holds."""
    if isinstance(value, dict):
        yield from value.items()
    for child in value.values() if isinstance(value, dict) else value:
        if isinstance(child, dict | list):
            yield from _fields(child)


def of_kind(manifests: Sequence[Manifest], *kinds: str) -> list[Manifest]:
    """Return the manifests of some kinds."""
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def named(manifests: Sequence[Manifest], kind: str, name: str) -> Manifest:
    """Return a manifest; a digest at the end of its name does not count."""
    (found,) = (
        manifest
        for manifest in of_kind(manifests, kind)
        if manifest["metadata"]["name"] == name
        or manifest["metadata"]["name"].rpartition("-")[0] == name
    )
    return found


def pods(manifests: Sequence[Manifest]) -> dict[str, Pod]:
    """Return the pods that the manifests make, by component."""
    templates = [manifest["spec"]["template"] for manifest in of_kind(manifests, *_WITH_PODS)]
    return {
        template["metadata"]["labels"][COMPONENT]: Pod(
            template["metadata"]["labels"][COMPONENT],
            template["metadata"]["labels"],
            template["spec"],
        )
        for template in templates
    }
