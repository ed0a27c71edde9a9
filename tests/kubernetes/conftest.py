"""A store, a bucket in it, and parts of a platform as the deploy face describes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import ekiben as ek
from ekiben import packing
from ekiben.kubernetes import mlflow, registry
from ekiben.kubernetes.facts import OWN_MIB, S3
from ekiben.kubernetes.pods import pod
from tests.fakes.http import Server, serving
from tests.fakes.mlflow import Cluster, kubeconfig

from . import store

if TYPE_CHECKING:
    from ekiben.emulators.kubernetes.chosen import Chosen

    from .stack import Stack

NAMESPACE = "demo-test"
SPEC: dict[str, Any] = {
    "source": "training_jobs/tiny", "entry": "train.py", "inputs": {"points": "lake/points/"}, "params": {"scale": 1.0}, "env": {},
    "arguments": False, "resources": {"vcpu": 0.5, "memory_mib": 512, "gpus": 0, "gpu": ""}, "nodes": 1, "timeout_s": 60,
    "grace_s": 2, "retries": 0, "spot": False, "model": "tiny",
}  # fmt: skip


@pytest.fixture(scope="session")
def store_url() -> Iterator[str]:
    with store.serving() as url:
        yield url


@pytest.fixture
def bucket(store_url: str) -> str:
    return store.bucket(store_url)


@pytest.fixture(scope="session")
def library() -> packing.Bundle:
    return packing.job_library("kubernetes/container.py")


@pytest.fixture(scope="session")
def stack(emulated_kubernetes: Chosen, library: packing.Bundle) -> Iterator[Stack]:
    """A namespace on the real cluster, with a store that its pods reach."""
    from .stack import standing

    with pytest.MonkeyPatch.context() as env:
        env.setenv("KUBECONFIG", emulated_kubernetes.kubeconfig)
        with standing(emulated_kubernetes, library) as made:
            yield made


@pytest.fixture
def _telling_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's keys, and a process that has told nothing yet."""
    monkeypatch.setenv("EKIBEN_S3_SECRET", "keys")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    monkeypatch.setattr(registry, "_told", set())
    monkeypatch.setattr(mlflow, "_away", {})
    monkeypatch.setattr(mlflow, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setattr(Cluster, "secrets", {})
    monkeypatch.setattr(Cluster, "logins", [])
    with serving(Cluster) as there:
        (tmp_path / "config").write_text(kubeconfig(there.url), encoding="utf-8")
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        yield there


def training_part(
    bucket: str,
    s3: S3,
    library: packing.Bundle,
    code: packing.Bundle,
    image: str = "python:3.11",
    namespace: str = NAMESPACE,
    **spec: Any,
) -> ek.Part:
    """A training whose archives are in the bucket, with fields of its spec over the usual ones."""
    wanted = {**SPEC, **spec}
    resources = wanted["resources"]
    shape = pod("job", image, vcpu=resources["vcpu"], memory_mib=resources["memory_mib"] + OWN_MIB)
    facts = {
        "namespace": namespace, "s3": s3.to_dict(), "storage_uri": bucket, "spec": wanted, "pod": shape,
        "code_uri": f"{bucket}/code/{code.sha256}.tar", "code_sha256": code.sha256, "code": {"commit": "abc", "dirty": False},
        "library_uri": f"{bucket}/code/{library.sha256}.tar", "library_sha256": library.sha256,
        "bus": f"{bucket}/deliveries/_events", "input_uris": {"points": f"{bucket}/points/"},
    }  # fmt: skip
    return ek.Part(name="tiny", kind="training", provider="kubernetes", ref="tiny", facts=facts)


def platform(*parts: ek.Part) -> ek.Platform:
    return ek.Platform(project="demo", stack="test", parts={part.name: part for part in parts})
