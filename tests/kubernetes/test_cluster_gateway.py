"""Deployments behind the Gateway API on the real cluster: weights as its API server takes them, and traffic that follows them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from ekiben.emulators.kubernetes import chosen
from ekiben.emulators.kubernetes.chosen import Chosen
from ekiben.emulators.kubernetes.ingress.__main__ import serve
from ekiben.kubernetes import leftovers
from ekiben.kubernetes.deployments import route
from ekiben.kubernetes.endpoint import Endpoint
from ekiben.kubernetes.facts import labels

from .canary import canary, check, load_of
from .conftest import platform
from .endpoints import PORT, endpoint, version, with_facts
from .stack import Stack

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def gateway(emulated_kubernetes: Chosen) -> Iterator[Chosen]:
    """The cluster with the Gateway API, and an ingress of this checkout's: that of the cluster may be another's."""
    if emulated_kubernetes.origin != "own":
        pytest.skip("no Gateway that is known: the cluster is not Ekiben's own")
    there = chosen.with_gateway(emulated_kubernetes)
    ready: Future[str] = Future()
    loop, told = asyncio.new_event_loop(), asyncio.Event()

    async def run() -> None:
        try:
            await serve(
                Path(there.kubeconfig), "127.0.0.1:0", "127.0.0.1:0", "ingress.example", told, lambda at, _: ready.set_result(at),
                ingress_class="of-this-test",
            )  # fmt: skip
        except BaseException as error:
            if not ready.done():
                ready.set_exception(error)
            raise

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    try:
        yield Chosen(
            origin="own", kubeconfig=there.kubeconfig,
            config={**there.config, "ekiben:ingressUrl": f"http://{ready.result(60)}"},
        )  # fmt: skip
    finally:
        loop.call_soon_threadsafe(told.set)
        thread.join()


def routed(stack: Stack, cluster: Chosen) -> Endpoint:
    """As the deploy face leaves an endpoint on Deployments where the stack's config names a Gateway."""
    config = cluster.config
    one = endpoint(stack, "deployments", ingress_url=config["ekiben:ingressUrl"])
    host = f"{one.part.name}.{stack.namespace}.{config['ekiben:domain']}"
    stack.make("HTTPRoute", {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "metadata": {"name": one.part.name, "labels": labels(platform(), one.part)},
        "spec": route(config["ekiben:gateway"], host, one.part.name),
    })  # fmt: skip
    return with_facts(one, route=one.part.name, url=f"http://{host}")


def weights(stack: Stack, one: Endpoint) -> dict[str, int]:
    """Service -> weight, as the API server has them."""
    (rule,) = stack.api.get("HTTPRoute", one.part.name, "look")["spec"]["rules"]
    assert {ref["port"] for ref in rule["backendRefs"]} == {PORT}
    return {ref["name"]: ref["weight"] for ref in rule["backendRefs"]}


def test_traffic_goes_by_the_weights_of_an_httproute(stack: Stack, gateway: Chosen) -> None:
    one = routed(stack, gateway)
    name = one.part.name
    assert weights(stack, one) == {name: 1}, "the server's own default"
    old, new = version(stack, 1), version(stack, 3)
    before = one.deploy(old)
    assert one.invoke("by its id", revision=before.id).body["by"] == old.id
    assert weights(stack, one) == {name: 1}
    one.shift({before.id: 100})
    assert weights(stack, one) == {f"{name}-{before.id}": 10000}
    assert one.invoke(1).body["by"] == old.id

    def split() -> None:
        assert weights(stack, one) == {f"{name}-{before.id}": 9000, f"{name}-{after.id}": 1000}

    with load_of(one) as load:
        with load.during("while another is deployed", 50):
            after = one.deploy(new)
        canary(load, one, before, after, split)
        with load.during("while the old one goes", 50):
            one.retire(before.id)
    check(load, before, after)
    assert set(load.seen["while another is deployed"]) == {old.id}
    assert set(load.seen["while the old one goes"]) == {new.id}
    assert weights(stack, one) == {f"{name}-{after.id}": 10000}
    assert [(each.id, each.weight) for each in one.revisions()] == [(after.id, 100.0)]


def test_what_an_endpoint_has_made_goes_and_its_route_stays_the_programs(stack: Stack, gateway: Chosen) -> None:
    one = routed(stack, gateway)
    made = one.deploy(version(stack, 4))
    one.shift({made.id: 100})
    leftovers.deleted(one._cluster, labels(platform(), one.part))
    assert one.revisions() == []
    assert weights(stack, one) == {f"{one.part.name}-{made.id}": 10000}
    one._cluster.delete("HTTPRoute", one.part.name, "clean up")
