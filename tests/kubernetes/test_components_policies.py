"""Whom the policies of a stack let through where its store is somebody else's, or has an address outside."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import ekiben as ek
from ekiben.kubernetes.components import Endpoint, Registry, Storage

from .program import NAMESPACE, run

TINY = Path(__file__).parents[1] / "rigs" / "project" / "bentos" / "tiny"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(TINY, tmp_path / "tiny")
    return tmp_path


@pytest.mark.parametrize(
    ("url", "namespace", "ports"),
    [
        ("https://minio.storage.svc", "storage", []),
        ("http://minio.storage.svc.cluster.local:9000", "storage", []),
        ("https://minio.example", "", [443]),
        ("http://192.0.2.7:9000", "", [9000]),
    ],
)
def test_a_model_reaches_a_store_that_is_there(project: Path, url: str, namespace: str, ports: list[int]) -> None:
    """Behind a Service it is pods of a namespace, at whatever port they have; else addresses, at the port of the URL."""

    def program() -> list[object]:
        lake = Storage("lake")
        models = Registry("models", storage=lake)
        return [lake, models, Endpoint("api", ek.EndpointSpec(model="tiny@champion", bento="tiny"), registry=models)]

    recorded = run(program, project, {"ekiben:s3Endpoint": url, "ekiben:s3Secret": "minio"})
    (out,) = recorded.one("NetworkPolicy", "api").inputs["spec"]["egress"]
    assert [one["port"] for one in out.get("ports", [])] == ports
    if namespace:
        assert out["to"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}]
    else:
        assert {"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]} in [one["ipBlock"] for one in out["to"]]


def test_a_store_with_an_address_outside_is_open_to_whoever_leads_there(project: Path) -> None:
    recorded = run(lambda: [Storage("lake")], project, {"ekiben:s3OutsideUrl": "https://s3.example"})
    (rule,) = recorded.one("NetworkPolicy", f"{NAMESPACE}-ekiben-store").inputs["spec"]["ingress"]
    assert rule == {"ports": [{"port": 7070, "protocol": "TCP"}]}
