"""The stack's namespace: Pod Security "restricted", nobody reaches a pod or is reached from one unless it is said, and a quota."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pulumi
import pulumi_kubernetes as k8s

from ekiben.components import Component
from ekiben.kubernetes.components.program import Kubernetes, current, labels_of
from ekiben.kubernetes.components.resources import Owner
from ekiben.kubernetes.components.settings import Settings
from ekiben.kubernetes.facts import COMPONENT, OWNER, namespace_name

__all__ = ["Namespace", "anywhere", "namespace_of", "network_policy", "port", "to_api", "to_store"]

SECURITY = {
    f"pod-security.kubernetes.io/{mode}{part}": value
    for mode in ("enforce", "audit", "warn")
    for part, value in (("", "restricted"), ("-version", "latest"))
}
# The addresses at which a cloud hands a node's credentials to whoever asks.
METADATA = {"0.0.0.0/0": ["169.254.169.254/32"], "::/0": ["fd00:ec2::254/128"]}
# CoreDNS behind its Service, and where OpenShift's listens. Where it is, nobody knows: in a pod, or on the node.
DNS_PORTS = (53, 5353)
# Of API servers, behind their Service: in a cloud, of kubeadm, of minikube. No cloud hands out credentials there.
API_PORTS = (443, 6443, 8443)
# What a load balancer or a node's port would open to others; nothing of ours needs one.
CLOSED = {"services.loadbalancers": "0", "services.nodeports": "0"}
# Under a quota of what is requested, containers that others put into pods need to say something.
LEAST = {"cpu": "25m", "memory": "64Mi"}
MOST = {"cpu": "1", "memory": "512Mi"}


@dataclass
class Namespace:
    """name: once it is there with all that guards it."""

    made: k8s.core.v1.Namespace
    name: pulumi.Output[str]
    opts: pulumi.ResourceOptions


def namespace_of(component: Component[Any]) -> Namespace:
    """The one of the stack, made on first use; with the provider of the component that uses it first."""
    program = current()
    if program.namespace is None:
        program.namespace = _made(component, program.settings)
    return program.namespace


def _made(component: Component[Any], settings: Settings) -> Namespace:
    project, stack = pulumi.get_project(), pulumi.get_stack()
    called, labels = namespace_name(project, stack), labels_of("")
    provider = component.get_provider("kubernetes:core/v1:Namespace")
    opts = pulumi.ResourceOptions(provider=provider)
    # It is in the state before the namespace is there.
    owner = Owner(f"{called}-owner", {"context": settings.context, "namespace": called}, opts=opts)
    made = k8s.core.v1.Namespace(
        called,
        metadata={"name": called, "labels": {**labels, **SECURITY}, "annotations": {OWNER: owner.owner}},
        opts=opts,
    )
    guarded = pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[made]))

    def meta(name: str) -> dict[str, Any]:
        return {"name": name, "namespace": called, "labels": labels}

    everybody: dict[str, Any] = {"podSelector": {}}
    guards: list[pulumi.Resource] = [
        k8s.networking.v1.NetworkPolicy(
            f"{called}-default",
            metadata=meta("ekiben-default"),
            spec={
                **everybody,
                "policyTypes": ["Ingress", "Egress"],
                "egress": [{"ports": [port(number, protocol) for number in DNS_PORTS for protocol in ("UDP", "TCP")]}],
            },
            opts=guarded,
        ),
        k8s.core.v1.ResourceQuota(
            f"{called}-quota",
            metadata=meta("ekiben-quota"),
            spec={"hard": {**CLOSED, **settings.quota}},
            opts=guarded,
        ),
    ]
    if settings.quota:
        limits = [{"type": "Container", "defaultRequest": LEAST, "default": MOST}]
        guards.append(
            k8s.core.v1.LimitRange(
                f"{called}-limits", metadata=meta("ekiben-limits"), spec={"limits": limits}, opts=guarded
            )
        )
    # Nothing is put into it before it is guarded.
    name = pulumi.Output.all(made.metadata, *(one.urn for one in guards)).apply(lambda told: str(told[0]["name"]))
    return Namespace(made, name, opts)


def network_policy(
    component: Kubernetes, *, ingress: Sequence[Mapping[str, Any]] = (), egress: Sequence[Mapping[str, Any]] = ()
) -> k8s.networking.v1.NetworkPolicy:
    """Who may reach the pods of a component, and whom they may."""
    types = [name for name, rules in (("Ingress", ingress), ("Egress", egress)) if rules]
    return k8s.networking.v1.NetworkPolicy(
        component.name,
        metadata=component.meta(),
        spec={
            "podSelector": {"matchLabels": {COMPONENT: component.name}},
            "policyTypes": types,
            **({"ingress": [dict(one) for one in ingress]} if ingress else {}),
            **({"egress": [dict(one) for one in egress]} if egress else {}),
        },
        opts=component.opts(),
    )


def anywhere() -> dict[str, Any]:
    """Out to everybody but the place where nodes are given their cloud's credentials.

    Pods are named beside addresses: to Cilium what is a pod or a node is no address (https://github.com/cilium/cilium/issues/16308).
    """
    return {"to": [*_addresses(), {"namespaceSelector": {}}]}


def to_api() -> dict[str, Any]:
    """Out to the API server, wherever it is: where a node is no address, nothing else names one."""
    return {"ports": [port(number) for number in API_PORTS]}


def to_store(settings: Settings) -> dict[str, Any]:
    """Out to the store, and nowhere else."""
    if not settings.s3_endpoint:
        from ekiben.kubernetes.components.store import PORT, SELECTOR

        return {"to": [{"podSelector": {"matchLabels": SELECTOR}}], "ports": [port(PORT)]}
    parts = urlsplit(settings.s3_endpoint)
    _, namespace, kind, *_ = [*(parts.hostname or "").split("."), "", ""]
    if kind == "svc":
        # Policies see the pods behind a Service, and their ports, which need not be the Service's.
        return {"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}]}
    return {"to": _addresses(), "ports": [port(parts.port or (443 if parts.scheme == "https" else 80))]}


def _addresses() -> list[dict[str, Any]]:
    return [{"ipBlock": {"cidr": cidr, "except": but}} for cidr, but in METADATA.items()]


def port(number: int, protocol: str = "TCP") -> dict[str, Any]:
    return {"port": number, "protocol": protocol}
