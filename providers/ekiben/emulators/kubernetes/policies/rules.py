"""What NetworkPolicies let through, as chains of iptables. It does nothing itself.

A pod whose address nobody knows is let through nothing. What a pod's policies say is a chain that is called by its own content:
pods of which they say the same share it, and one that is there is never changed.
https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Network, collapse_addresses
from typing import Any

from ekiben.emulators.kubernetes.layout import HOST, PODS

__all__ = ["FORWARD", "INPUT", "PREFIX", "Chains", "Pod", "chains", "pod_of", "selected"]

PREFIX = "EKIBEN-"
# What the kernel's chains of the same names jump to: between pods and others, and from pods to the node itself.
FORWARD, INPUT = f"{PREFIX}FORWARD", f"{PREFIX}INPUT"
FROM, TO = f"{PREFIX}FROM", f"{PREFIX}TO"
BEGUN = "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"
ANYWHERE = IPv4Network("0.0.0.0/0")
OVER = ("Succeeded", "Failed")
Chains = dict[str, list[str]]
Object = Mapping[str, Any]
EVERY_PORT: Sequence[Object] = ({},)


@dataclass(frozen=True, kw_only=True)
class Pod:
    """One that has, or had, a network of its own. reported: the address that the API has of it. ports: name, protocol, number."""

    namespace: str
    labels: Mapping[str, str]
    reported: str = ""
    ports: Sequence[tuple[str, str, int]] = ()


@dataclass(frozen=True)
class Side:
    """One of the two directions, seen from the pod. own, other: the options for the pod's address and its peer's."""

    chain: str
    kind: str
    rules: str
    peers: str
    own: str
    other: str


SIDES = (
    Side(FROM, "Egress", "egress", "to", "-s", "-d"),
    Side(TO, "Ingress", "ingress", "from", "-d", "-s"),
)


def pod_of(item: Object) -> Pod | None:
    """What rules need to know of a pod of the API; None of one that is over or on the node's own network."""
    about, spec, status = item["metadata"], item["spec"], item.get("status", {})
    if spec.get("hostNetwork") or status.get("phase") in OVER:
        return None
    ports = [
        (port["name"], port.get("protocol", "TCP"), port["containerPort"])
        for container in [*spec["containers"], *(spec.get("initContainers") or ())]
        for port in container.get("ports") or ()
        if port.get("name")
    ]
    return Pod(
        namespace=about["namespace"], labels=about.get("labels") or {}, reported=status.get("podIP", ""), ports=ports
    )


def chains(policies: Iterable[Object], pods: Mapping[str, Pod], namespaces: Mapping[str, Mapping[str, str]]) -> Chains:
    """The rules of each chain. pods: by their addresses. namespaces: their labels. A packet that returns is let through."""
    policies = list(policies)
    cluster = _Cluster(pods, namespaces)
    made: Chains = {
        FORWARD: [BEGUN, f"-s {PODS} -j {FROM}", f"! -s {HOST} -d {PODS} -j {TO}"],
        INPUT: [BEGUN, f"-s {PODS} -j {FROM}"],
        FROM: [],
        TO: [],
    }
    for address, pod in sorted(pods.items()):
        mine = [one["spec"] for one in policies if _is_for(one, pod)]
        for side in SIDES:
            held = [spec for spec in mine if side.kind in _kinds(spec)]
            if not held:
                made[side.chain].append(f"{side.own} {address} -j RETURN")
                continue
            lines = {
                line: None
                for spec in held
                for rule in spec.get(side.rules) or ()
                for line in cluster.lets(side, rule, pod)
            }
            rules = [*sorted(lines), "-j DROP"]
            name = PREFIX + hashlib.sha256("\n".join(rules).encode()).hexdigest()[:16]
            made[name] = rules
            # Nobody is kept from himself.
            made[side.chain] += [f"-s {address} -d {address} -j RETURN", f"{side.own} {address} -g {name}"]
    for side in SIDES:
        made[side.chain].append("-j DROP")
    return made


def selected(selector: Object, labels: Mapping[str, str]) -> bool:
    """Does a label selector choose what has `labels`? An empty one chooses everything."""
    return all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items()) and all(
        _expressed(one, labels.get(one["key"])) for one in selector.get("matchExpressions") or ()
    )


def _expressed(expression: Object, value: str | None) -> bool:
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case _:
            return value is None


def _is_for(policy: Object, pod: Pod) -> bool:
    return policy["metadata"]["namespace"] == pod.namespace and selected(
        policy["spec"].get("podSelector") or {}, pod.labels
    )


def _kinds(spec: Object) -> Sequence[str]:
    return spec.get("policyTypes") or ("Ingress", *(("Egress",) if spec.get("egress") else ()))


@dataclass(frozen=True)
class _Cluster:
    pods: Mapping[str, Pod]
    namespaces: Mapping[str, Mapping[str, str]]
    # What the peers of a rule are, by the identity of their list, which the policies hold.
    found: dict[int, Sequence[IPv4Network]] = field(default_factory=dict)

    def lets(self, side: Side, rule: Object, pod: Pod) -> Iterator[str]:
        """What a rule of a policy in the namespace of `pod` lets through, when it is for that pod."""
        networks = self._peers(rule.get(side.peers) or (), pod.namespace)
        for port in rule.get("ports") or EVERY_PORT:
            for network, wanted in self._doors(side, networks, port, pod):
                where = "" if network == ANYWHERE else f"{side.other} {network} "
                yield f"{where}{wanted}-j RETURN"

    def _doors(
        self, side: Side, networks: Sequence[IPv4Network], port: Object, pod: Pod
    ) -> Iterator[tuple[IPv4Network, str]]:
        """Networks, and what of the protocol and the port is asked besides."""
        if not port:
            yield from ((network, "") for network in networks)
            return
        protocol, wanted = port.get("protocol", "TCP"), port.get("port")
        option = f"-p {protocol.lower()} "
        if isinstance(wanted, str):  # what is called so by the pod that is called
            if side.kind == "Ingress":
                numbers = [(network, number) for number in _named(pod, wanted, protocol) for network in networks]
            else:
                numbers = [
                    (IPv4Network(address), number)
                    for address, one in self.pods.items()
                    for number in _named(one, wanted, protocol)
                    if any(IPv4Network(address).subnet_of(network) for network in networks)
                ]
            yield from ((network, f"{option}--dport {number} ") for network, number in numbers)
            return
        if wanted is not None:
            option += f"--dport {wanted}:{port['endPort']} " if "endPort" in port else f"--dport {wanted} "
        yield from ((network, option) for network in networks)

    def _peers(self, peers: Sequence[Object], namespace: str) -> Sequence[IPv4Network]:
        """The same for all pods that the rule is for."""
        if id(peers) not in self.found:
            found = [network for peer in peers for network in self._networks(peer, namespace)] if peers else [ANYWHERE]
            self.found[id(peers)] = list(collapse_addresses(found))
        return self.found[id(peers)]

    def _networks(self, peer: Object, namespace: str) -> Sequence[IPv4Network]:
        if block := peer.get("ipBlock"):
            return _without(block["cidr"], tuple(block.get("except") or ()))
        return [
            IPv4Network(address)
            for address, one in self.pods.items()
            if selected(peer.get("podSelector") or {}, one.labels)
            and (
                one.namespace == namespace
                if "namespaceSelector" not in peer
                else selected(peer["namespaceSelector"], self.namespaces.get(one.namespace, {}))
            )
        ]


def _named(pod: Pod, name: str, protocol: str) -> list[int]:
    return [number for found, kind, number in pod.ports if (found, kind) == (name, protocol)]


@lru_cache(maxsize=1024)
def _without(cidr: str, excepted: tuple[str, ...]) -> Sequence[IPv4Network]:
    """The network without what is excepted, in as many parts as that takes; none of IPv6, which pods here have not."""
    if ":" in cidr:
        return ()
    parts = [IPv4Network(cidr, strict=False)]
    for one in excepted:
        hole = IPv4Network(one, strict=False)
        parts = [
            rest
            for part in parts
            for rest in (
                part.address_exclude(hole) if hole.subnet_of(part) else () if part.subnet_of(hole) else (part,)
            )
        ]
    return tuple(parts)
