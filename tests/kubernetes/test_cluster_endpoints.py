"""Endpoints on the real cluster: revisions that come and go, traffic that is split, and a bad one that never gets any."""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

import ekiben as ek
from ekiben.emulators.kubernetes.chosen import Chosen
from ekiben.kubernetes import placeholder
from ekiben.kubernetes.client import Cluster
from ekiben.kubernetes.endpoint import Endpoint
from ekiben.kubernetes.facts import COMPONENT, TRAFFIC, EndpointFacts, labels
from ekiben.kubernetes.pods import pod, secret_variable
from ekiben.revisions import revision_id
from tests.waiting import until

from .conftest import platform
from .stack import Stack

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

# What a server of Ekiben's says of itself, without a model: the second version does not start.
SERVER = """
import http.server, json, os, sys, time
if os.environ.get("EKIBEN_MODEL_VERSION") == "tiny:2":
    sys.exit("the model cannot be read: bad magic")
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked = 0
    def do_GET(self):
        if self.path != "/metrics": return self.say(200, {})
        counted = 'x_request_total{endpoint="/predict",http_response_code="200"} %d\\nx_request_total{endpoint="/readyz"} 9\\n'
        seen = 'x_request_duration_seconds_bucket{endpoint="/predict",le="%s"} %d\\n'
        body = (counted % Handler.asked + seen % ("0.1", Handler.asked) + seen % ("+Inf", Handler.asked)).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        token = self.headers.get("x-ekiben-token")
        if token != os.environ["EKIBEN_SERVER_TOKEN"]: return self.say(401, {"error": "no"})
        Handler.asked += 1
        self.say(200, {"said": json.loads(body or b"null"), "by": os.environ.get("EKIBEN_MODEL_VERSION", "nobody")})
    def say(self, status, told):
        body = json.dumps(told).encode()
        self.send_response(status)
        for name, value in (("content-type", "application/json"), ("content-length", str(len(body))),
                            ("x-ekiben-revision", os.environ.get("EKIBEN_SERVER_REVISION", ""))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("", int(os.environ.get("PORT", 8080))), Handler).serve_forever()
"""
PORT = 8080


def version(stack: Stack, number: int) -> ek.ModelVersion:
    data = b"bento %d" % number
    digest = hashlib.sha256(data).hexdigest()
    stack.store.put(f"{stack.bucket}/bentos/{digest}.tar", data)
    return ek.ModelVersion(
        model="tiny", version=number, key=f"run-{number}", digest=digest, bento_uri=f"{stack.bucket}/bentos/{digest}.tar",
        created_at="", created_by="me",
    )  # fmt: skip


def endpoint(stack: Stack, backend: str, **facts: Any) -> Endpoint:
    """As the deploy face leaves it: its token, and its shell without a model."""
    name = f"api-{uuid.uuid4().hex[:6]}"
    shape = pod(
        "server", stack.image, vcpu=0.1, memory_mib=64, command=["python3", "-c", SERVER], ports=[{"containerPort": PORT}],
        variables=[secret_variable("EKIBEN_SERVER_TOKEN", "keys", "access_key_id")], writable_mib=16,
    )  # fmt: skip
    stack.make("Secret", {"metadata": {"name": f"{name}-token"}, "stringData": {"token": "testing"}})
    given = {
        "namespace": stack.namespace, "backend": backend, "service": name, "pod": shape, "s3": stack.s3.to_dict(),
        "storage_uri": stack.bucket, "model": "tiny@champion", "template_uri": "", "template_sha256": "", "drain_s": 1.0,
        "url": f"http://{name}.{stack.namespace}.svc:{PORT}", "token_secret": f"{name}-token", "max_instances": 4, **facts,
    }  # fmt: skip
    part = ek.Part(
        name=name, kind="endpoint", provider="kubernetes", ref=name, facts=EndpointFacts.from_dict(given).to_dict()
    )
    whose = labels(platform(), part)
    if backend == "deployments":
        spec = {"selector": {COMPONENT: name, TRAFFIC: "yes"}, "ports": [{"name": "http", "port": PORT}]}
        stack.make("Service", {"metadata": {"name": name, "labels": whose}, "spec": spec})
    else:
        empty = pod(
            "server", stack.image, vcpu=0.1, memory_mib=64, command=["python3", "-c", placeholder.SOURCE],
            ports=[{"containerPort": PORT}], writable_mib=1,
        )  # fmt: skip
        template = {"metadata": {"labels": whose}, "spec": empty}
        spec = {"template": template, "traffic": [{"latestRevision": True, "percent": 100}]}
        stack.make("KnativeService", {"apiVersion": "serving.knative.dev/v1", "kind": "Service",
                                      "metadata": {"name": name, "labels": whose}, "spec": spec})  # fmt: skip
    return Endpoint(part, platform(part))


def answers(one: Endpoint, count: int) -> Counter[str]:
    return Counter(one.invoke(number).body["by"] for number in range(count))


def lives_through_releases(stack: Stack, one: Endpoint, split: tuple[int, int]) -> None:
    first, bad, third = (version(stack, number) for number in (1, 2, 3))
    with pytest.raises(ek.Unavailable, match="no revision of it has traffic"):
        one.invoke({"x": 1})
    made = one.deploy(first, tag="next")
    assert (made.id, made.state, made.weight, made.tag) == (revision_id(first), "ready", 0.0, "next")
    assert one.deploy(first).created_at == made.created_at
    for by in (made.id, "next"):
        prediction = one.invoke({"x": "駅弁"}, revision=by)
        assert (prediction.body, prediction.revision) == ({"said": {"x": "駅弁"}, "by": "tiny:1"}, made.id)
    with pytest.raises(ek.Unavailable, match="no revision of it has traffic"):
        one.invoke({"x": 1})
    one.shift({made.id: 100})
    until(lambda: answers(one, 5) == {"tiny:1": 5}, "it has the traffic")
    (measured,) = one.metrics()
    assert (measured.revision, measured.errors) == (made.id, 0)
    assert measured.requests >= 5
    assert 0 < measured.p50_ms <= 100
    # One that does not start is gone, with the end of its log, and has had no traffic.
    with pytest.raises(ek.ModelFailed, match="tiny:2 does not start") as failed:
        one.deploy(bad)
    assert "bad magic" in failed.value.tail
    assert [(each.id, each.weight) for each in one.revisions()] == [(made.id, 100.0)]
    with pytest.raises(ek.IntegrityError):
        one.deploy(replace(third, digest="0" * 64))
    after = one.deploy(third)
    assert answers(one, 5) == {"tiny:1": 5}
    one.shift({made.id: split[0], after.id: split[1]})
    assert {each.id: each.weight for each in one.revisions()} == {made.id: split[0], after.id: split[1]}
    seen = answers(one, 60)
    assert set(seen) == {"tiny:1", "tiny:3"}
    with pytest.raises(ek.SpecError, match="has 50 % of the traffic"):
        one.retire(after.id)
    # No request is lost while the traffic moves.
    lost: list[Exception] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                one.invoke(0)
            except Exception as error:
                lost.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    one.shift({after.id: 100})
    over.set()
    asking.join()
    assert lost == []
    # The cluster tells its nodes of it a moment later.
    until(lambda: answers(one, 5) == {"tiny:3": 5}, "the traffic has moved")
    one.retire(made.id)
    one.retire(made.id)
    assert [each.id for each in one.revisions()] == [after.id]
    assert answers(one, 5) == {"tiny:3": 5}
    with pytest.raises(ek.NotFound, match="there is no revision 'v9-"):
        one.invoke(1, revision="v9-00000000")


def test_deployments_live_through_releases(stack: Stack) -> None:
    lives_through_releases(stack, endpoint(stack, "deployments"), (50, 50))


def test_knative_lives_through_releases(stack: Stack, emulated_knative: Chosen) -> None:
    config = emulated_knative.config
    one = endpoint(stack, "knative", ingress_url=config["ekiben:ingressUrl"])
    one._facts = one._made._facts = replace(
        one._facts, url=f"http://{one.part.name}.{stack.namespace}.{config['ekiben:domain']}"
    )
    lives_through_releases(stack, one, (50, 50))


def test_a_split_that_pods_cannot_make_is_refused_with_what_to_do(stack: Stack) -> None:
    from ekiben.kubernetes.deployments import pods_by_weight

    assert pods_by_weight({"a": 75.0, "b": 25.0}, 1, 4) == {"a": 3, "b": 1}
    assert pods_by_weight({"a": 100.0}, 2, 4) == {"a": 2}
    with pytest.raises(ek.Unsupported, match="max_instances=4 of them do not make 90:10"):
        pods_by_weight({"a": 90.0, "b": 10.0}, 1, 4)


def test_the_labels_find_all_that_a_stack_has(stack: Stack) -> None:
    from ekiben.kubernetes.inventory import found

    one = endpoint(stack, "deployments")
    one.deploy(version(stack, 1))
    told = list(found("demo", "test", {}, platform(one.part)))
    kinds = {where.split("/")[-3] for _, where, tags in told if tags.get(COMPONENT) == one.part.name}
    assert {"Deployment", "Pod", "ReplicaSet", "Service"} <= kinds
    assert list(found("demo", "other", {})) == []
    assert isinstance(one._cluster, Cluster)
