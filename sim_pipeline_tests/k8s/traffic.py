"""Evaluates NetworkPolicies: whether a connection between two peers is allowed.

The policies of both ends must allow a connection. If no policy selects a peer for a direction, the
peer allows everything. If several select it, it allows what any of them allows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from sim_pipeline_tests.k8s.manifests import of_kind
from sim_pipeline_tests.k8s.rendering import Manifest

OWN_NAMESPACE = {"kubernetes.io/metadata.name": "sim-pipeline"}


@dataclass(frozen=True)
class Peer:
    """One end of a connection: a pod, or an address outside the cluster.

    Attributes:
        labels: the pod's labels.
        namespace: the labels of its namespace.
        address: the address outside the cluster; None for a pod.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: Mapping[str, str] = field(default_factory=lambda: OWN_NAMESPACE)
    address: str | None = None


@dataclass(frozen=True)
class Port:
    """The target port of a connection."""

    number: int
    protocol: str = "TCP"


def allowed(manifests: Sequence[Manifest], source: Peer, target: Peer, port: Port) -> bool:
    """Return whether the policies of both ends allow a connection."""
    policies = [policy["spec"] for policy in of_kind(manifests, "NetworkPolicy")]
    out = [policy for policy in policies if _applies(policy, "Egress", source)]
    into = [policy for policy in policies if _applies(policy, "Ingress", target)]
    return (
        not out
        or any(
            _covers(rule.get("to"), rule.get("ports"), target, port)
            for policy in out
            for rule in policy.get("egress", [])
        )
    ) and (
        not into
        or any(
            _covers(rule.get("from"), rule.get("ports"), source, port)
            for policy in into
            for rule in policy.get("ingress", [])
        )
    )


def _applies(policy: Mapping[str, Any], direction: str, peer: Peer) -> bool:
    is_ours = peer.address is None and peer.namespace == OWN_NAMESPACE
    return (
        is_ours
        and direction in policy["policyTypes"]
        and selects(policy["podSelector"], peer.labels)
    )


def _covers(
    peers: Sequence[Mapping[str, Any]] | None,
    ports: Sequence[Mapping[str, Any]] | None,
    peer: Peer,
    port: Port,
) -> bool:
    """Return whether a rule covers a peer and a port; an omitted list covers everything."""
    return (
        ports is None
        or any(
            rule.get("port") == port.number and rule.get("protocol", "TCP") == port.protocol
            for rule in ports
        )
    ) and (peers is None or any(_is(described, peer) for described in peers))


def _is(described: Mapping[str, Any], peer: Peer) -> bool:
    if "ipBlock" in described:
        if peer.address is None:
            return False
        address, block = ip_address(peer.address), described["ipBlock"]
        return address in ip_network(block["cidr"]) and not any(
            address in ip_network(hole) for hole in block.get("except", [])
        )
    if peer.address is not None:
        return False
    namespace_fits = (
        selects(described["namespaceSelector"], peer.namespace)
        if "namespaceSelector" in described
        else peer.namespace == OWN_NAMESPACE
    )
    return namespace_fits and selects(described.get("podSelector", {}), peer.labels)


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Return whether a label selector matches these labels.

    Raises:
        ValueError: the selector uses an operator other than In.
    """
    for expression in selector.get("matchExpressions", []):
        if expression["operator"] != "In":
            raise ValueError(f"operator {expression['operator']!r}: allowed here is In")
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
