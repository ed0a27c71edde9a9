"""HTTPRoutes in the ingress's table, as the API server has them after its defaults."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from ekiben.emulators.kubernetes.ingress import gateway
from ekiben.emulators.kubernetes.ingress.routes import HTTPROUTE, Table

HOST = "api.shop.example"


def route(*refs: dict[str, Any], created: str = "2026-01-01T00:00:00Z", **rule: Any) -> dict[str, Any]:
    parents = [
        {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "ingress", "namespace": "ekiben-gateway"}
    ]
    matches = [{"path": {"type": "PathPrefix", "value": "/"}}]
    return {
        "metadata": {"name": "api", "namespace": "shop", "creationTimestamp": created, "generation": 2},
        "spec": {
            "parentRefs": parents, "hostnames": [HOST],
            "rules": [{"matches": matches, "backendRefs": [{"kind": "Service", "group": "", **ref} for ref in refs], **rule}],
        },
    }  # fmt: skip


def test_a_route_s_weights_are_shares_of_its_services() -> None:
    old, new, none = (
        {"name": name, "port": 8080, "weight": weight} for name, weight in (("old", 9000), ("new", 1000), ("no", 0))
    )
    table = Table.of({f"{HTTPROUTE}shop/api": route(old, new, none)})
    assert table.wrong == {}
    for inside in (True, False):
        found = table.find(f"{HOST}:80", "/predict", {}, inside=inside)
        assert found is not None
        assert [(each.service, each.port, each.percent) for each in found.splits] == [
            ("shop/old", 8080, 9000),
            ("shop/new", 8080, 1000),
        ]
        chosen = Counter(split.service for _ in range(2000) if (split := found.choose()))
        assert 100 <= chosen["shop/new"] <= 320  # 200, and some nine deviations
    assert table.find("other.example", "/", {}, inside=False) is None


def test_a_route_without_weight_answers_nothing_and_one_backend_has_all() -> None:
    alone = Table.of({f"{HTTPROUTE}shop/api": route({"name": "only", "port": 80, "weight": 1})}).find(
        HOST, "/", {}, inside=False
    )
    assert alone is not None
    assert (split := alone.choose()) is not None
    assert split.service == "shop/only"
    empty = Table.of({f"{HTTPROUTE}shop/api": route({"name": "only", "port": 80, "weight": 0})}).find(
        HOST, "/", {}, inside=False
    )
    assert empty is not None
    assert empty.choose() is None


@pytest.mark.parametrize(
    "rule",
    [
        {"filters": [{"type": "RequestRedirect"}]},
        {"timeouts": {"request": "1s"}},
        {"matches": [{"path": {"type": "RegularExpression", "value": "/.*"}}]},
        {"matches": [{"method": "GET"}]},
        {"matches": [{"headers": [{"type": "RegularExpression", "name": "x", "value": ".*"}]}]},
    ],
)
def test_what_it_does_not_follow_makes_no_route_and_says_why(rule: dict[str, Any]) -> None:
    table = Table.of({f"{HTTPROUTE}shop/api": route({"name": "only", "port": 80}, **rule)})
    assert table.find(HOST, "/", {}, inside=False) is None
    assert "does not follow" in table.wrong[f"{HTTPROUTE}shop/api"]


def test_routes_of_other_gateways_are_theirs() -> None:
    mine = route()
    assert gateway.attached(mine)
    mine["spec"]["parentRefs"] = [{"name": "ingress"}]
    assert not gateway.attached(mine), "it is the Gateway of the route's own namespace"
    assert not gateway.attached({"metadata": {"namespace": "shop"}, "spec": {}})


def test_a_status_tells_of_the_generation_and_leaves_that_of_others() -> None:
    made = route()
    other = {"parentRef": {"name": "elsewhere"}, "controllerName": "example.org/other", "conditions": []}
    made["status"] = {"parents": [other]}
    made["status"] = gateway.wanted(made, "")
    assert made["status"]["parents"][0] == other
    (accepted, resolved) = made["status"]["parents"][1]["conditions"]
    assert (accepted["type"], accepted["status"], accepted["observedGeneration"]) == ("Accepted", "True", 2)
    assert (resolved["type"], resolved["status"]) == ("ResolvedRefs", "True")
    accepted["lastTransitionTime"] = "2026-01-02T03:04:05Z"
    assert gateway.wanted(made, "") == made["status"], "nothing has changed"
    refused = gateway.wanted(made, "why not")["parents"][1]["conditions"][0]
    assert (refused["status"], refused["reason"], refused["message"]) == ("False", "UnsupportedValue", "why not")
    assert refused["lastTransitionTime"] != accepted["lastTransitionTime"]
