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
from tests.talkers import Talker, begin, ready
from tests.waiting import until

pytestmark = pytest.mark.cluster

ONE, OTHER, DEEP = 8001, 8002, 8010
TEAM = {"team": "b"}


@pytest.fixture(scope="module")
def cluster(emulated_kubernetes: Chosen) -> Chosen:
    if emulated_kubernetes.origin != "own":
        pytest.skip("what is tested here is Ekiben's own cluster, and another one is used")
    return emulated_kubernetes


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


def shut_off(caller: Talker, host: str, port: int) -> bool:
    """True as soon as nothing comes through; rules take effect a moment after they are made."""
    return until(lambda: not caller.reaches(host, port), f"{caller.name} does not reach {host}:{port}")


def let_in(caller: Talker, host: str, port: int) -> bool:
    return until(lambda: caller.reaches(host, port), f"{caller.name} reaches {host}:{port}")


def test_who_is_isolated_is_reached_by_nobody_but_the_node_until_the_policy_goes(three: Three, rules: Rules) -> None:
    server, client, stranger = three
    assert client("hold", server.address, ONE) == "reached"
    rules.say("shut", podSelector={"matchLabels": {"app": "server"}})
    assert shut_off(client, server.address, ONE)
    assert shut_off(stranger, server.address, OTHER)
    assert server.reaches(client.address, ONE), "what it reaches is not said"
    assert server.reaches(server.address, ONE), "nobody is kept from himself"
    assert client("say", server.address, ONE) == "hello", "what has begun goes on"
    rules.clear()
    assert let_in(client, server.address, ONE)
    assert let_in(stranger, server.address, OTHER)


def test_selectors_of_pods_and_of_namespaces(three: Three, rules: Rules) -> None:
    server, client, stranger = three
    beside = {"podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["client"]}]}}
    rules.say("who", podSelector={}, ingress=[{"from": [beside]}])
    assert shut_off(stranger, server.address, ONE)
    assert client.reaches(server.address, ONE)
    rules.say("who", podSelector={}, ingress=[{"from": [{"namespaceSelector": {"matchLabels": TEAM}, **beside}]}])
    assert shut_off(client, server.address, ONE)
    assert stranger.reaches(server.address, ONE)


def test_ports_by_number_name_and_range(three: Three, rules: Rules) -> None:
    server, client, _ = three
    for port, which in (({"port": OTHER}, OTHER), ({"port": "one"}, ONE), ({"port": OTHER + 1, "endPort": DEEP}, DEEP)):
        rules.say("what", podSelector={}, ingress=[{"ports": [port]}])
        assert all(shut_off(client, server.address, one) for one in {ONE, OTHER, DEEP} - {which})
        assert let_in(client, server.address, which)


def test_addresses_but_for_some(three: Three, rules: Rules) -> None:
    server, client, stranger = three
    block = {"cidr": PODS, "except": [f"{server.address}/32"]}
    rules.say(
        "where",
        podSelector={"matchLabels": {"app": "client"}},
        egress=[{"to": [{"ipBlock": block}]}],
        policyTypes=["Egress"],
    )
    assert shut_off(client, server.address, ONE)
    assert client.reaches(stranger.address, ONE)
    assert server.reaches(client.address, ONE)
    assert not client.reaches(NODE, REGISTRY_PORT), "the node is an address like others"


def test_what_goes_out_is_bounded_and_names_are_answered_where_that_is_said(three: Three, rules: Rules) -> None:
    server, client, stranger = three
    rules.say("out", podSelector={}, policyTypes=["Egress"])
    assert all(
        shut_off(client, *to) for to in ((server.address, ONE), (stranger.address, ONE), (NODE, 53), (NODE, API_PORT))
    )
    assert stranger.reaches(client.address, ONE), "who comes in is not said"
    names = [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
    rules.say("names", podSelector={}, policyTypes=["Egress"], egress=[{"ports": names}])
    assert let_in(client, NODE, 53)
    assert client("name", "kubernetes.default").count(".") == 3
    assert not client.reaches(NODE, API_PORT)
    named = [{"to": [{"namespaceSelector": {"matchLabels": TEAM}}], "ports": [{"port": "one"}]}]
    rules.say("named", podSelector={}, policyTypes=["Egress"], egress=named)
    assert let_in(client, stranger.address, ONE)
    assert not client.reaches(server.address, ONE)


def test_a_pod_is_guarded_before_it_begins(api: Api, cluster: Chosen, three: Three, rules: Rules) -> None:
    """Also one that comes when the policy is there already, and one that is given other labels."""
    server, _, _ = three
    rules.say(
        "shut",
        podSelector={"matchLabels": {"app": "server"}},
        ingress=[{"from": [{"podSelector": {"matchLabels": {"may": "yes"}}}]}],
    )
    assert shut_off(three[1], server.address, ONE)
    for name, labels in (("late", {"app": "late"}), ("friend", {"may": "yes"})):
        begin(api, cluster.config["ekiben:pythonImage"], server.namespace, name, [], labels)
    late, friend = (ready(api, server.namespace, name) for name in ("late", "friend"))
    assert not late.reaches(server.address, ONE)
    assert friend.reaches(server.address, ONE)
    path = f"/api/v1/namespaces/{server.namespace}/pods/late"
    api.apply(path, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "late", "labels": {"may": "yes"}}})
    assert let_in(late, server.address, ONE)
    for name in ("late", "friend"):
        api.delete(f"/api/v1/namespaces/{server.namespace}/pods/{name}")
