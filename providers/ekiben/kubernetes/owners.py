"""Whose a stack's namespace is: a text that is made up before the namespace is there, kept in the stack's state, and written on it.

Two checkouts with one project and one stack's name mean one namespace, and what one destroys is the other's, too. Whoever has made
the namespace has its text in the state, also where the engine was killed since: one with another text is another stack's.
"""

from __future__ import annotations

import secrets
from typing import Any

from ekiben.errors import AccessDenied, AlreadyExists, NotFound
from ekiben.kubernetes.client import Cluster
from ekiben.kubernetes.facts import MANAGED_BY, OWNER
from ekiben.kubernetes.inventory import kinds
from ekiben.whoami import whoami

__all__ = ["check", "made_up"]

RANDOM_BYTES = 4
# What guards a namespace, and holds nothing.
GUARDS = frozenset({"LimitRange", "NetworkPolicy", "ResourceQuota"})


def made_up() -> str:
    """Who begins it, for whoever meets it there, and what nobody else has drawn."""
    return f"{whoami()}-{secrets.token_hex(RANDOM_BYTES)}"


def check(cluster: Cluster, owner: str) -> None:
    """Raises AlreadyExists where the namespace is another's than `owner`, and there is something in it that would be lost."""
    name = cluster.namespace
    operation = f"use the namespace {name!r}"
    try:
        meta: dict[str, Any] = cluster.read(f"api/v1/namespaces/{name}", operation)["metadata"]
    except NotFound:
        return
    other = (meta.get("annotations") or {}).get(OWNER, owner)
    if other == owner or meta.get("deletionTimestamp") or _empty(cluster, operation):
        return
    raise AlreadyExists(
        "kubernetes", operation,
        f"another stack of the same project and name has it since {meta.get('creationTimestamp')}: that of {other}",
        "Give this stack another name, or destroy the other one from where it was brought up; where its state is lost, `kubectl "
        f"delete namespace {name}` deletes it with all its data",
    )  # fmt: skip


def _empty(cluster: Cluster, operation: str) -> bool:
    """Is nothing of a stack's in the namespace? What may not be listed is taken for something."""
    asked = {"labelSelector": f"{MANAGED_BY}=ekiben", "limit": "1"}
    for kind in kinds(cluster, operation):
        if not kind.namespaced or kind.name in GUARDS:
            continue
        try:
            for _ in cluster.pages(f"{kind.root}/namespaces/{cluster.namespace}/{kind.plural}", operation, asked):
                return False
        except AccessDenied:
            return False
        except NotFound:  # the kind went meanwhile
            continue
    return True
