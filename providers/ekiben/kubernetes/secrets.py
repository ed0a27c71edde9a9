"""Secrets with random values that are made here, go to the cluster, and are nowhere else: no state, no log."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence

from ekiben.errors import AlreadyExists, NotFound
from ekiben.kubernetes.client import Cluster

__all__ = ["deleted", "found", "made"]

# 256 bits as 64 characters, which any header and any S3 client takes.
RANDOM_BYTES = 32


def made(cluster: Cluster, name: str, fields: Sequence[str], labels: Mapping[str, str]) -> str:
    """The uid of the Secret, which is made where it is not there; one that lacks a field is given it. Repeating is safe."""
    operation = f"make the Secret {name!r}"
    while True:
        try:
            there = cluster.get("Secret", name, operation)
        except NotFound:
            try:
                thing = {"metadata": {"name": name, "labels": dict(labels)}, "type": "Opaque", "data": _random(fields)}
                there = cluster.create("Secret", thing, operation)
            except AlreadyExists:  # somebody was quicker: theirs it is
                continue
        change: dict[str, object] = {}
        if missing := [one for one in fields if one not in (there.get("data") or {})]:
            change["data"] = _random(missing)
        if dict(labels).items() - (there["metadata"].get("labels") or {}).items():
            change["metadata"] = {"labels": dict(labels)}
        if change:
            cluster.patch("Secret", name, change, operation)
        return str(there["metadata"]["uid"])


def found(cluster: Cluster, name: str, fields: Sequence[str]) -> str:
    """The uid of the Secret; empty where there is none, or one that lacks a field."""
    try:
        there = cluster.get("Secret", name, f"look for the Secret {name!r}")
    except NotFound:
        return ""
    whole = set(fields) <= set(there.get("data") or {})
    return str(there["metadata"]["uid"]) if whole else ""


def deleted(cluster: Cluster, name: str) -> None:
    """Silent where there is none."""
    cluster.delete("Secret", name, f"delete the Secret {name!r}")


def _random(fields: Sequence[str]) -> dict[str, str]:
    return {one: base64.b64encode(secrets.token_hex(RANDOM_BYTES).encode()).decode() for one in fields}
