"""A stack on a real cluster, as the deploy face would leave it: a namespace, keys of a store, and archives in a bucket."""

from __future__ import annotations

import base64
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightkube.config.kubeconfig import KubeConfig

from ekiben import packing
from ekiben.emulators.kubernetes.chosen import Chosen
from ekiben.kubernetes.client import Cluster
from ekiben.kubernetes.facts import RUN, S3
from ekiben.kubernetes.training import Training

from . import store
from .conftest import platform, training_part

__all__ = ["Stack", "standing"]

JOB = Path(__file__).parents[1] / "rigs" / "project" / "training_jobs" / "tiny"


class Stack:
    """A namespace as a stack has it, a store on this machine that its pods reach, and a bucket."""

    def __init__(self, cluster: Chosen, url: str, library: packing.Bundle) -> None:
        self.namespace, self.url, self.bucket = f"demo-{uuid.uuid4().hex[:8]}", url, store.bucket(url)
        self.api, self.store = Cluster(self.namespace), store.client(url)
        self.image, self.library, self.code = cluster.config["ekiben:pythonImage"], library, packing.bundle(JOB)
        self.s3 = S3(url=url, secret="keys")
        security = {"pod-security.kubernetes.io/enforce": "restricted"}
        self._make("Namespace", "api/v1/namespaces", {"metadata": {"name": self.namespace, "labels": security}})
        keys = {"access_key_id": "testing", "secret_access_key": "not-a-secret"}
        data = {name: base64.b64encode(value.encode()).decode() for name, value in keys.items()}
        self._make("Secret", self.api.path("Secret"), {"metadata": {"name": "keys"}, "data": data})
        for one in (self.code, library):
            self.store.put(f"{self.bucket}/code/{one.sha256}.tar", one.path.read_bytes())
        self.store.put(f"{self.bucket}/points/a.jsonl", b'{"x": 1, "y": 3}\n{"x": 2, "y": 6}\n')

    def training(self, image: str = "", **spec: Any) -> Training:
        part = training_part(
            self.bucket,
            self.s3,
            self.library,
            self.code,
            image or self.image,
            self.namespace,
            **{"timeout_s": 300, **spec},
        )
        return Training(part, platform(part))

    def pods(self, run: str) -> list[dict[str, Any]]:
        return list(self.api.list("Pod", "look", labels={RUN: run}))

    def destroy(self) -> None:
        self.api.delete_at(f"api/v1/namespaces/{self.namespace}", "clean up")

    def make(self, kind: str, thing: dict[str, Any]) -> None:
        """An object of the namespace."""
        self._make(kind, self.api.path(kind), thing)

    def _make(self, kind: str, path: str, thing: dict[str, Any]) -> None:
        self.api._json("POST", path, "set up", {"apiVersion": "v1", "kind": kind.removeprefix("Knative"), **thing})


@contextmanager
def standing(cluster: Chosen, library: packing.Bundle) -> Iterator[Stack]:
    """KUBECONFIG has to lead to the cluster."""
    # The address of this machine that the cluster's pods reach is the one from which it reaches the cluster.
    config = KubeConfig.from_file(cluster.kubeconfig).get()
    assert config is not None
    server = urlsplit(config.cluster.server)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect((server.hostname, server.port))
        address = one.getsockname()[0]
    with store.serving(address) as url:
        made = Stack(cluster, url, library)
        yield made
        made.destroy()
