"""What there is of a stack in a cluster: by its labels, of every kind that the API has, and the volumes of its namespace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from ekiben.errors import AccessDenied, NotFound, ProviderError
from ekiben.kubernetes.client import Cluster
from ekiben.kubernetes.facts import PROJECT, STACK, namespace_name
from ekiben.records import Platform
from ekiben.waiting import looks

__all__ = ["Kind", "found", "kinds"]

READERS = 8
# A cloud's volume takes some seconds to be deleted.
GOING_S, FIRST_PAUSE_S, LAST_PAUSE_S = 60.0, 0.2, 2.0
# What the cluster makes of others, and what is the record of something.
DERIVED = frozenset({"endpoints", "endpointslices", "events", "podmetrics", "controllerrevisions"})


class Kind(NamedTuple):
    """A kind of the API: where its objects are, what it is called, and whether they are in namespaces."""

    root: str
    plural: str
    name: str
    namespaced: bool


def found(
    project: str, stack: str, config: Mapping[str, Any], platform: Platform | None = None
) -> Iterator[tuple[str, str, dict[str, str]]]:
    """(name, path in the API, labels) of each thing that is there. A kind that may not be listed in the whole cluster is looked for
    in the stack's namespace, and left out where that may not be either.

    config: the stack's; platform: of the stack, while that is known. Raises what the cluster says.
    """
    facts = next(
        (one.facts for one in (platform.parts.values() if platform else ()) if one.provider == "kubernetes"), {}
    )
    namespace = str(facts.get("namespace") or namespace_name(project, stack))
    cluster = Cluster(namespace, str(facts.get("context") or config.get("kubernetes:context") or ""))
    operation = "look for what there is"
    all_kinds = list(kinds(cluster, operation))
    with ThreadPoolExecutor(READERS) as pool:
        listed = pool.map(lambda kind: _of_kind(cluster, kind, project, stack, operation), all_kinds)
        for kind, things in zip(all_kinds, listed, strict=True):
            for one in things:
                meta = one["metadata"]
                where = f"{meta['namespace']}/" if meta.get("namespace") else ""
                yield (
                    str(meta["name"]),
                    f"{kind.root}/{kind.name}/{where}{meta['name']}",
                    dict(meta.get("labels") or {}),
                )
    for volume in _volumes(cluster, namespace, operation):
        name = volume["metadata"]["name"]
        yield name, f"api/v1/PersistentVolume/{name}", {"claim": str(volume["spec"]["claimRef"].get("name", ""))}


def _volumes(cluster: Cluster, namespace: str, operation: str) -> list[dict[str, Any]]:
    """Those of the namespace's claims: who provisions them gives them no labels. One whose claim is gone is waited for, where
    whoever made it deletes it."""
    claims = f"api/v1/namespaces/{namespace}/persistentvolumeclaims"
    for _ in looks(GOING_S, FIRST_PAUSE_S, LAST_PAUSE_S):
        volumes = _listed(cluster, "api/v1/persistentvolumes", operation, {}) or ()
        found = [one for one in volumes if (one["spec"].get("claimRef") or {}).get("namespace") == namespace]
        going = {
            one["spec"]["claimRef"].get("name")
            for one in found
            if one["spec"].get("persistentVolumeReclaimPolicy") == "Delete"
        }
        if not going or going <= {one["metadata"]["name"] for one in _listed(cluster, claims, operation, {}) or ()}:
            break
    return found


def kinds(cluster: Cluster, operation: str) -> Iterator[Kind]:
    """All that can be listed and deleted, in the version that the server prefers."""
    roots = ["api/v1"]
    for group in cluster.read("apis", operation).get("groups") or ():
        roots.append(f"apis/{group['preferredVersion']['groupVersion']}")
    for root in roots:
        try:
            told = cluster.read(root, operation).get("resources") or ()
        except ProviderError as error:
            if root.count("/") > 1 and error.retryable:  # an aggregated API that is down has nothing of ours
                continue
            raise
        for one in told:
            if "/" not in one["name"] and {"list", "delete"} <= set(one["verbs"]) and one["name"] not in DERIVED:
                yield Kind(root, one["name"], one["kind"], bool(one["namespaced"]))


def _of_kind(cluster: Cluster, kind: Kind, project: str, stack: str, operation: str) -> list[dict[str, Any]]:
    asked = {"labelSelector": f"{PROJECT}={project},{STACK}={stack}"}
    found = _listed(cluster, f"{kind.root}/{kind.plural}", operation, asked)
    if found is None and kind.namespaced:
        found = _listed(cluster, f"{kind.root}/namespaces/{cluster.namespace}/{kind.plural}", operation, asked)
    return found or []


def _listed(cluster: Cluster, path: str, operation: str, asked: Mapping[str, str]) -> list[dict[str, Any]] | None:
    """None where it may not be listed."""
    try:
        return list(cluster.pages(path, operation, asked))
    except AccessDenied:
        return None
    except NotFound:  # the kind went meanwhile
        return []
