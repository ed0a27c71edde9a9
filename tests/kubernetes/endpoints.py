"""An endpoint on the real cluster as the deploy face leaves it, with a small server in the place of Ekiben's."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import replace
from typing import Any

import ekiben as ek
from ekiben.emulators.kubernetes.chosen import Chosen
from ekiben.kubernetes import placeholder
from ekiben.kubernetes.endpoint import Endpoint
from ekiben.kubernetes.facts import COMPONENT, TRAFFIC, EndpointFacts, labels
from ekiben.kubernetes.pods import pod, secret_variable

from .conftest import platform
from .stack import Stack

__all__ = ["PORT", "endpoint", "on_knative", "version", "with_facts"]

# What a server of Ekiben's says of itself, without a model: the second version does not start.
SERVER = """
import http.server, json, os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
SINCE = str(1000 * time.time())
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
                            ("x-ekiben-revision", os.environ.get("EKIBEN_SERVER_REVISION", "")), ("x-ekiben-since-ms", SINCE)):
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


def on_knative(stack: Stack, cluster: Chosen, **facts: Any) -> Endpoint:
    """One that is called through the cluster's ingress."""
    config = cluster.config
    one = endpoint(stack, "knative", ingress_url=config["ekiben:ingressUrl"], **facts)
    return with_facts(one, url=f"http://{one.part.name}.{stack.namespace}.{config['ekiben:domain']}")


def with_facts(one: Endpoint, **facts: Any) -> Endpoint:
    """The same endpoint, as another deploy would describe it."""
    told = replace(one._facts, **facts)
    part = replace(one.part, facts=told.to_dict())
    return Endpoint(part, platform(part))
