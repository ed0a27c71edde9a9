"""Knative Serving in the real cluster, through the ingress: from the first request of a service to its end."""

from __future__ import annotations

import http.client
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest

from ekiben.emulators.kubernetes.api import Api, Refused
from ekiben.emulators.kubernetes.chosen import Chosen

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

T = TypeVar("T")
PATIENCE_S = 240.0
SERVING = "/apis/serving.knative.dev/v1"
# The first process of a container has no defaults for signals.
PROGRAM = """
import http.server, os, signal
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        said = os.environ["VERSION"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), Handler).serve_forever()
"""
# Pod Security's "restricted".
SECURITY = {
    "allowPrivilegeEscalation": False, "runAsNonRoot": True, "runAsUser": 65532, "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"}, "readOnlyRootFilesystem": True,
}  # fmt: skip


class Shop:
    """A namespace with a Knative Service `api`, and calls of it from this machine."""

    def __init__(self, cluster: Chosen) -> None:
        self.api = Api(Path(cluster.kubeconfig))
        self.image = cluster.config["ekiben:pythonImage"]
        self.address = urlsplit(cluster.config["ekiben:ingressUrl"])
        self.domain = cluster.config["ekiben:domain"]
        self.namespace = f"shop-{uuid.uuid4().hex[:8]}"
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.api.create(
            "/api/v1/namespaces",
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace, "labels": labels}},
        )

    @property
    def host(self) -> str:
        return f"api.{self.namespace}.{self.domain}"

    @property
    def path(self) -> str:
        return f"{SERVING}/namespaces/{self.namespace}/services/api"

    def deploy(self, version: str, traffic: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        """A revision of this name, and who gets the traffic; returns when the Service is ready."""
        container = {
            "image": self.image, "command": ["python3", "-c", PROGRAM], "env": [{"name": "VERSION", "value": version}],
            "securityContext": SECURITY, "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}},
        }  # fmt: skip
        template = {"metadata": {"name": f"api-{version}"}, "spec": {"containers": [container]}}
        spec = {"template": template, "traffic": traffic or [{"latestRevision": True, "percent": 100}]}
        self.api.apply(
            self.path,
            {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "api"}, "spec": spec},
        )
        return until(self._ready)

    def _ready(self) -> dict[str, Any] | None:
        found: dict[str, Any] = self.api.get(self.path)
        status = found.get("status", {})
        if status.get("observedGeneration") != found["metadata"]["generation"]:
            return None
        return found if {"type": "Ready", "status": "True"}.items() <= _condition(status).items() else None

    def call(self, host: str = "") -> tuple[int, str]:
        connection = http.client.HTTPConnection(str(self.address.hostname), self.address.port or 80, timeout=PATIENCE_S)
        try:
            connection.request("GET", "/", headers={"Host": host or self.host})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def items(self, path: str) -> list[dict[str, Any]]:
        group, _, kind = path.rpartition("/")
        return list(self.api.get(f"{group}/namespaces/{self.namespace}/{kind}")["items"])


def _condition(status: dict[str, Any]) -> dict[str, Any]:
    return next((one for one in status.get("conditions", []) if one["type"] == "Ready"), {})


def until(look: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


@pytest.fixture
def shop(emulated_knative: Chosen) -> Iterator[Shop]:
    made = Shop(emulated_knative)
    yield made
    made.api.delete(f"/api/v1/namespaces/{made.namespace}")


def test_a_service_from_its_first_request_to_its_end(shop: Shop) -> None:
    service = shop.deploy("one")
    assert service["status"]["url"] == f"http://{shop.host}"
    assert shop.call() == (200, "one")
    assert shop.call(f"api.{shop.namespace}.svc.cluster.local")[0] == 404  # from outside

    # A second revision comes under load, and gets a tenth of the traffic, and a host of its own.
    counted: Counter[tuple[int, str]] = Counter()
    over = threading.Event()

    def load() -> None:
        while not over.is_set():
            try:
                answer = shop.call()
            except OSError as error:
                answer = (0, repr(error))
            counted[answer] += 1
            time.sleep(0.05)

    callers = [threading.Thread(target=load) for _ in range(2)]
    for caller in callers:
        caller.start()
    try:
        shop.deploy(
            "two",
            [{"revisionName": "api-one", "percent": 90}, {"revisionName": "api-two", "percent": 10, "tag": "canary"}],
        )
    finally:
        over.set()
        for caller in callers:
            caller.join()
    assert {status for status, _ in counted} == {200}
    split = Counter(shop.call() for _ in range(400))
    # Five standard deviations of a binomial of 400 and 0.1.
    assert split[200, "one"] + split[200, "two"] == 400
    assert 10 <= split[200, "two"] <= 70
    assert shop.call(f"canary-{shop.host}") == (200, "two")

    # Nothing runs when nobody calls; the next call is held while a pod starts.
    until(lambda: not shop.items("/api/v1/pods"))
    assert shop.call(f"canary-{shop.host}") == (200, "two")
    assert [pod["metadata"]["labels"]["serving.knative.dev/revision"] for pod in shop.items("/api/v1/pods")] == [
        "api-two"
    ]

    shop.api.delete(shop.path)
    kinds = (
        f"{SERVING}/configurations", f"{SERVING}/revisions", f"{SERVING}/routes", "/api/v1/services", "/api/v1/pods",
        "/apis/networking.internal.knative.dev/v1alpha1/ingresses", "/apis/apps/v1/deployments", "/api/v1/endpoints",
        "/apis/autoscaling.internal.knative.dev/v1alpha1/podautoscalers",
    )  # fmt: skip
    until(lambda: not any(shop.items(kind) for kind in kinds))
    until(lambda: shop.call()[0] == 404)
    with pytest.raises(Refused):
        shop.api.get(shop.path)
