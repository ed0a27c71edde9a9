"""A registry with a mirror, versions for it, and what an MLflow server tells of them."""

from __future__ import annotations

import socket
from typing import Any

import pytest

import ekiben as ek
from ekiben.kubernetes.facts import S3, Mlflow, RegistryFacts
from ekiben.kubernetes.registry import Registry
from tests import mlflow_server

__all__ = ["DIGEST", "aliases", "bound", "closed", "part", "says", "shown", "version", "warnings"]

DIGEST = "a" * 64


def part(store_url: str, bucket: str, at: Mlflow) -> ek.Part:
    """The registry "models" of a platform."""
    facts = RegistryFacts(
        namespace="shop-dev", uri=f"{bucket}/registry/models", s3=S3(url=store_url, secret="keys"), mlflow=at,
        bus=f"{bucket}/deliveries/_events",
    )  # fmt: skip
    return ek.Part(name="models", kind="registry", provider="kubernetes", ref="", facts=facts.to_dict())


def bound(store_url: str, bucket: str, at: Mlflow) -> Registry:
    one = part(store_url, bucket, at)
    return Registry(one, ek.Platform(project="shop", stack="dev", parts={"models": one}))


def version(key: str = "run-1", **over: Any) -> ek.ModelVersion:
    fields: dict[str, Any] = {
        "model": "tiny", "version": 0, "key": key, "digest": DIGEST, "bento_uri": f"s3://lake/bentos/{DIGEST}.tar",
        "created_at": "", "created_by": "Zoë <zoe@example.com>", "run_id": key, "metrics": {"auc": 0.9},
        "lineage": {"code": {"commit": "abc"}, "inputs": {"points": {"sha256": "b" * 64, "files": []}}},
    }  # fmt: skip
    return ek.ModelVersion(**{**fields, **over})


def shown(server: str, start: str, model: str = "tiny") -> dict[str, dict[str, Any]]:
    """Our version -> what the REST API tells of the model version that it is."""
    told = mlflow_server.ask(server, "model-versions/search", filter=f"name = '{start}.{model}'", max_results="200")
    found = [
        {**one, "tags": {tag["key"]: tag["value"] for tag in one["tags"]}} for one in told.get("model_versions", ())
    ]
    by_version = {one["tags"]["ekiben.version"]: one for one in found}
    assert len(by_version) == len(found), "each of ours is one of theirs"
    return by_version


def aliases(server: str, start: str, model: str = "tiny") -> dict[str, str]:
    told = mlflow_server.ask(server, "registered-models/get", name=f"{start}.{model}")["registered_model"]
    return {one["alias"]: one["version"] for one in told.get("aliases", ())}


def says(server: str, there: dict[str, Any], state: str) -> None:
    """Somebody sets the state in MLflow's pages."""
    body = {"name": there["name"], "version": there["version"], "key": "ekiben.state", "value": state}
    mlflow_server.ask(server, "model-versions/set-tag", body)


def closed() -> str:
    """Where nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{one.getsockname()[1]}"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the registry has told its user."""
    return [one.getMessage() for one in caplog.records if one.name == "ekiben.kubernetes"]
