"""Pods that say whom they reach: each listens on some ports, echoes there, and does what it is told on another."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from ekiben.emulators.kubernetes.api import Api
from ekiben.emulators.kubernetes.chosen import Chosen
from tests.waiting import until

__all__ = ["Talker", "begin", "enforcing", "ready", "until_reached"]

CONTROL = 20000
# Who is let through is answered at once, who is not never is. `until_reached` looks again where a busy machine was slower.
PATIENCE_S, HOST_PATIENCE_S = 1, 60
AT_ONCE = 12
PROGRAM = f"""\
import http.server, json, socket, socketserver, sys, threading, urllib.parse

class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while got := self.request.recv(100):
            self.request.sendall(got)

class Told(http.server.BaseHTTPRequestHandler):
    held = {{}}
    def do_GET(self):
        told = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        try:
            answer = getattr(self, told.pop("do"))(**told)
        except TimeoutError:
            answer = "nothing"
        except OSError as error:
            answer = str(error)
        body = json.dumps(answer).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def reach(self, host, port):
        socket.create_connection((host, int(port)), {PATIENCE_S}).close()
        return "reached"
    def hold(self, host, port):
        self.held[host, port] = socket.create_connection((host, int(port)), {PATIENCE_S})
        return "reached"
    def say(self, host, port):
        one = self.held[host, port]
        one.sendall(b"hello")
        return one.recv(100).decode()
    def name(self, host):
        return socket.gethostbyname(host)
    def log_message(self, *args):
        pass

class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True

for port in sys.argv[1:]:
    threading.Thread(target=Server(("", int(port)), Echo).serve_forever, daemon=True).start()
http.server.ThreadingHTTPServer(("", {CONTROL}), Told).serve_forever()
"""


# An address and a port.
Target = tuple[str, int]


@dataclass(frozen=True)
class Talker:
    """A pod that listens. Whoever is on the node reaches it, whatever policies say."""

    namespace: str
    name: str
    address: str

    def __call__(self, what: str, host: str, port: int | None = None) -> str:
        told = {"do": what, "host": host, **({} if port is None else {"port": port})}
        url = f"http://{self.address}:{CONTROL}/?{urllib.parse.urlencode(told)}"
        with urllib.request.urlopen(url, timeout=HOST_PATIENCE_S) as response:
            return str(json.loads(response.read()))

    def reached(self, targets: Iterable[Target]) -> set[Target]:
        """Those that it is let through to. Who is refused has got there."""
        targets = list(targets)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = pool.map(lambda target: self("reach", *target), targets)
        return {target for target, answer in zip(targets, answers, strict=True) if answer != "nothing"}


def enforcing(cluster: Chosen) -> Chosen:
    """The cluster, which enforces policies; otherwise the test is skipped."""
    if cluster.origin != "own":
        pytest.skip(
            "whether a cluster that is not Ekiben's own enforces policies, and what it lets through, nobody knows here"
        )
    return cluster


def begin(
    api: Api,
    image: str,
    namespace: str,
    name: str,
    ports: Mapping[str, int] | Sequence[int],
    labels: Mapping[str, str] | None = None,
) -> None:
    """Make the pod. ports: that it listens on; with names where they have some."""
    named = ports if isinstance(ports, Mapping) else {}
    numbers = list(named.values()) if named else list(ports)
    container: dict[str, Any] = {
        "name": "talker", "image": image, "command": ["python3", "-c", PROGRAM, *map(str, numbers)],
        "ports": [{"name": one, "containerPort": number} for one, number in named.items()],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "1", "memory": "64Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True, "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "readinessProbe": {"tcpSocket": {"port": CONTROL}, "periodSeconds": 1},
    }  # fmt: skip
    spec = {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0, "containers": [container]}
    api.create(
        f"/api/v1/namespaces/{namespace}/pods", {"metadata": {"name": name, "labels": dict(labels or {})}, "spec": spec}
    )


def ready(api: Api, namespace: str, name: str) -> Talker:
    """The pod once it listens."""
    path = f"/api/v1/namespaces/{namespace}/pods/{name}"

    def listens() -> str:
        status = api.get(path)["status"]
        up = any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", ()))
        return str(status["podIP"]) if up else ""

    return Talker(namespace, name, until(listens, f"{name} listens"))


def until_reached(caller: Talker, targets: Iterable[Target], wanted: Iterable[Target]) -> None:
    """Wait until the caller reaches those that are wanted, and no other. Rules take effect a moment after they are made."""
    targets, wanted = list(targets), set(wanted)
    assert wanted <= set(targets)
    until(lambda: caller.reached(targets) == wanted, f"{caller.name} reaches {sorted(wanted)} of {sorted(targets)}")
