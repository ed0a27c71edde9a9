"""NetworkPolicies as the cluster enforces them between real pods."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ekiben.emulators.kubernetes.api import Api
from ekiben.emulators.kubernetes.chosen import Chosen
from ekiben.emulators.kubernetes.layout import API_PORT, NODE, PODS, REGISTRY_PORT
from tests.talkers import Talker, begin, enforcing, ready, until_reached
from tests.waiting import until

pytestmark = pytest.mark.cluster

ONE, OTHER, DEEP = 8001, 8002, 8010
TEAM = {"team": "b"}


@pytest.fixture(scope="module")
def cluster(emulated_kubernetes: Chosen) -> Chosen:
    return enforcing(emulated_kubernetes)


@pytest.fixture(scope="module")
def api(cluster: Chosen) -> Api:
    return Api(Path(cluster.kubeconfig))


@pytest.fixture(scope="module")
def namespaces(api: Api) -> Iterator[tuple[str, str]]:
    names = f"test-{uuid.uuid4().hex[:8]}", f"test-{uuid.uuid4().hex[:8]}"
    for name, labels in zip(names, ({}, TEAM), strict=True):
        api.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    for name in names:
        until(lambda name=name: api.get(f"/api/v1/namespaces/{name}/serviceaccounts")["items"])  # type: ignore[misc]
    yield names
    for name in names:
        api.delete(f"/api/v1/namespaces/{name}")


Three = tuple[Talker, Talker, Talker]


@pytest.fixture(scope="module")
def three(api: Api, cluster: Chosen, namespaces: tuple[str, str]) -> Three:
    """A server, a client beside it, and a stranger in the other namespace."""
    home, away = namespaces
    image = cluster.config["ekiben:pythonImage"]
    begin(api, image, home, "server", {"one": ONE, "other": OTHER, "deep": DEEP}, {"app": "server"})
    begin(api, image, home, "client", [ONE], {"app": "client"})
    begin(api, image, away, "stranger", {"one": ONE}, {"app": "client"})
    return ready(api, home, "server"), ready(api, home, "client"), ready(api, away, "stranger")


class Rules:
    """Policies of the first namespace, by their names."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api, self._path = api, f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
        self._made: set[str] = set()

    def say(self, name: str, **spec: Any) -> None:
        about = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name}}
        self._api.apply(f"{self._path}/{name}", {**about, "spec": spec})
        self._made.add(name)

    def clear(self) -> None:
        for name in self._made:
            self._api.delete(f"{self._path}/{name}")
        self._made.clear()


@pytest.fixture
def rules(api: Api, three: Three) -> Iterator[Rules]:
    made = Rules(api, three[0].namespace)
    yield made
    made.clear()


def test_who_is_isolated_is_reached_by_nobody_but_the_node_until_the_policy_goes(three: Three, rules: Rules) -> None:
    server, client, stranger = three
    both = [(server.address, ONE), (server.address, OTHER)]
    assert client("hold", *both[0]) == "reached"
    rules.say("shut", podSelector={"matchLabels": {"app": "server"}})
    until_reached(client, both, [])
    until_reached(stranger, both, [])
    out = [(client.address, ONE), (server.address, ONE)]
    until_reached(server, out, out)  # what it reaches is not said, and nobody is kept from himself
    assert client("say", *both[0]) == "hello", "what has begun goes on"
    rules.clear()
    until_reached(client, both, both)
    until_reached(stranger, both, both)


def test_selectors_of_pods_and_of_namespaces(three: Three, rules: Rules) -> None:
    server, client, stranger = three
    there = [(server.address, ONE)]
    beside = {"podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["client"]}]}}
    rules.say("who", podSelector={}, ingress=[{"from": [beside]}])
    until_reached(stranger, there, [])
    until_reached(client, there, there)
    rules.say("who", podSelector={}, ingress=[{"from": [{"namespaceSelector": {"matchLabels": TEAM}, **beside}]}])
    until_reached(client, there, [])
    until_reached(stranger, there, there)


def test_ports_by_number_name_and_range(three: Three, rules: Rules) -> None:
    server, client, _ = three
    every = [(server.address, port) for port in (ONE, OTHER, DEEP)]
    for port, which in (({"port": OTHER}, OTHER), ({"port": "one"}, ONE), ({"port": OTHER + 1, "endPort": DEEP}, DEEP)):
        rules.say("what", podSelector={}, ingress=[{"ports": [port]}])
        until_reached(client, every, [(server.address, which)])


def test_addresses_but_for_some(three: Three, rules: Rules) -> None:
    server, client, stranger = three
    block = {"cidr": PODS, "except": [f"{server.address}/32"]}
    out = [{"to": [{"ipBlock": block}]}]
    rules.say("where", podSelector={"matchLabels": {"app": "client"}}, egress=out, policyTypes=["Egress"])
    # The node is an address like others.
    every = [(server.address, ONE), (stranger.address, ONE), (NODE, REGISTRY_PORT)]
    until_reached(client, every, [(stranger.address, ONE)])
    until_reached(server, [(client.address, ONE)], [(client.address, ONE)])


def test_what_goes_out_is_bounded_and_names_are_answered_where_that_is_said(three: Three, rules: Rules) -> None:
    server, client, stranger = three
    every = [(server.address, ONE), (stranger.address, ONE), (NODE, 53), (NODE, API_PORT)]
    until_reached(client, every, every)
    rules.say("out", podSelector={}, policyTypes=["Egress"])
    until_reached(client, every, [])
    until_reached(stranger, [(client.address, ONE)], [(client.address, ONE)])
    names = [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
    rules.say("names", podSelector={}, policyTypes=["Egress"], egress=[{"ports": names}])
    until_reached(client, every, [(NODE, 53)])
    assert client("name", "kubernetes.default").count(".") == 3
    named = [{"to": [{"namespaceSelector": {"matchLabels": TEAM}}], "ports": [{"port": "one"}]}]
    rules.say("named", podSelector={}, policyTypes=["Egress"], egress=named)
    until_reached(client, every, [(NODE, 53), (stranger.address, ONE)])


def test_a_pod_that_comes_later_is_guarded_and_other_labels_are_other_rules(
    api: Api, cluster: Chosen, three: Three, rules: Rules
) -> None:
    server, client, _ = three
    there = [(server.address, ONE)]
    friends = {"podSelector": {"matchLabels": {"may": "yes"}}}
    rules.say("shut", podSelector={"matchLabels": {"app": "server"}}, ingress=[{"from": [friends]}])
    until_reached(client, there, [])
    names = {f"{name}-{uuid.uuid4().hex[:6]}": {"may": name} for name in ("no", "yes")}
    for name, labels in names.items():
        begin(api, cluster.config["ekiben:pythonImage"], server.namespace, name, [], labels)
    late, friend = (ready(api, server.namespace, name) for name in names)
    until_reached(friend, there, there)
    until_reached(late, there, [])
    path = f"/api/v1/namespaces/{server.namespace}/pods/{late.name}"
    api.apply(path, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": late.name, "labels": {"may": "yes"}}})
    until_reached(late, there, there)
