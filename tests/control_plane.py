"""A real API server without a cluster: etcd, kube-apiserver and the controllers, on loopback, with all state in one folder.

No node runs anything, no root is needed. What its pods do a test says itself, by their status.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ekiben.emulators.kubernetes import binaries
from ekiben.emulators.kubernetes.pki import Authority
from ekiben.emulators.warden import Ward
from ekiben.errors import EkibenError

PATIENCE_S = 120.0
LOOK_S = 0.1
TOKEN = "a-token-of-the-tests"  # noqa: S105 -- of a server that lives as long as the tests, on loopback
NAMES = ("etcd", "kube-apiserver", "kube-controller-manager")
MODULES = [
    replace(module, packages=packages)
    for module in binaries.MODULES
    if (packages := {name: package for name, package in module.packages.items() if name in NAMES})
]


class ControlPlane:
    """`kubeconfig` reaches it as one who may do everything. `call` asks it, as JSON."""

    def __init__(self, folder: Path, port: int) -> None:
        self.kubeconfig, self.url = folder / "kubeconfig", f"https://127.0.0.1:{port}"
        self._certificate = folder / "certificates" / "apiserver.crt"

    def write(self) -> None:
        user, cluster = {"token": TOKEN}, {"server": self.url, "certificate-authority": str(self._certificate)}
        text = json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}], "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        })  # fmt: skip
        self.kubeconfig.write_text(text, encoding="ascii")

    def call(self, method: str, path: str, body: Any = None, *, content: str = "application/json") -> Any:
        headers = {"authorization": f"Bearer {TOKEN}", "content-type": content}
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"{self.url}/{path}", data, headers, method=method)
        trust = ssl.create_default_context(cafile=str(self._certificate))
        with urllib.request.urlopen(request, context=trust, timeout=30) as answer:
            said = answer.read()
        return json.loads(said) if said.startswith(b"{") else said.decode()

    def status(self, path: str, **status: Any) -> Any:
        """Say what a controller or a node would say of an object."""
        return self.call("PATCH", f"{path}/status", {"status": status}, content="application/merge-patch+json")

    def wait(self, path: str) -> Any:
        """What is at a path, once it is there."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self.call("GET", path)
            except (OSError, ssl.SSLError):
                if time.monotonic() > deadline:
                    raise
            time.sleep(LOOK_S)


@contextmanager
def control_plane(folder: Path) -> Iterator[ControlPlane]:
    """Started, and ended with all it holds. Skips the test where its programs are not there."""
    if absent := binaries.missing(MODULES):
        pytest.skip(f"{', '.join(absent)} cannot be built here: see docs/emulators.md")
    programs = binaries.cache() / "bin"
    store, peers, port, controllers = _ports(4)
    plane = ControlPlane(folder, port)
    (folder / "tokens.csv").write_text(f'{TOKEN},admin,admin,"system:masters"\n', encoding="ascii")
    Authority(folder / "keys").key_pair("tokens")
    plane.write()
    commands = {
        # Nothing here outlives the tests, so nothing has to reach the disk.
        "etcd": [
            "--unsafe-no-fsync", f"--data-dir={folder}/etcd", f"--listen-client-urls=http://127.0.0.1:{store}", "--log-level=error",
            f"--advertise-client-urls=http://127.0.0.1:{store}", f"--listen-peer-urls=http://127.0.0.1:{peers}",
        ],
        "kube-apiserver": [
            f"--etcd-servers=http://127.0.0.1:{store}", "--bind-address=127.0.0.1", f"--secure-port={port}",
            f"--cert-dir={folder}/certificates", f"--token-auth-file={folder}/tokens.csv", "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16", "--endpoint-reconciler-type=none", "--enable-priority-and-fairness=false",
            "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={folder}/keys/tokens.pub",
            f"--service-account-signing-key-file={folder}/keys/tokens.key", "--allow-privileged=true", "--watch-cache=false",
        ],
        "kube-controller-manager": [
            f"--kubeconfig={plane.kubeconfig}", "--bind-address=127.0.0.1", f"--secure-port={controllers}", "--leader-elect=false",
            f"--service-account-private-key-file={folder}/keys/tokens.key", f"--cert-dir={folder}/controllers",
        ],
    }  # fmt: skip
    with ExitStack() as stack:
        for name in NAMES:
            output = stack.enter_context((folder / f"{name}.log").open("ab"))
            env = {"PATH": os.environ["PATH"], "HOME": str(folder)}
            ward = Ward([str(programs / name), *commands[name]], env=env, cwd=folder, output=output)
            stack.callback(ward.kill)
            if name == "kube-apiserver":
                _ready(plane, ward, folder / f"{name}.log")
        plane.wait("api/v1/namespaces/default/serviceaccounts/default")
        yield plane


@cache
def wait_for_programs() -> None:
    """Have them built, the first time for this user; who cannot build skips the tests."""
    with suppress(EkibenError):
        binaries.ensure(lambda line: None, MODULES)


def _ready(plane: ControlPlane, ward: Ward, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and ward.wait(LOOK_S) is None:
        with suppress(OSError, ssl.SSLError):
            if plane.call("GET", "readyz") == "ok":
                return
    raise RuntimeError(f"the API server does not start:\n{log.read_text(errors='replace')[-3000:]}")


def _ports(count: int) -> list[int]:
    """Free ones, different from each other."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
