"""What runs and deployments of a component leave in the namespace: it goes with the component."""

from __future__ import annotations

from collections.abc import Mapping

from ekiben.errors import NotFound, Unavailable
from ekiben.kubernetes.client import Cluster
from ekiben.kubernetes.facts import COMPONENT, REVISION, RUN
from ekiben.waiting import looks

__all__ = ["component", "deleted"]

# What is made at run time; pods and endpoints go with what they belong to. What makes others goes before them. A cluster need not
# have all of these.
KINDS = (
    "TrainJob", "TrainingRuntime", "Job", "HorizontalPodAutoscaler", "Deployment", "Service", "Secret", "KnativeRevision",
    "HTTPRoute",
)  # fmt: skip
TIMEOUT_S = 300.0
FIRST_PAUSE_S, LAST_PAUSE_S = 0.2, 5.0


def component(labels: Mapping[str, str]) -> str:
    """Whose labels these are."""
    return labels[COMPONENT]


def deleted(cluster: Cluster, labels: Mapping[str, str], timeout_s: float = 0.0) -> None:
    """Delete all that has these labels and is of a run or a revision, and wait until its pods are gone; silent where nothing is.

    Raises Unavailable when pods are still there after five minutes.
    """
    operation = f"delete what {component(labels)!r} has made"
    whose = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    selectors = [f"{whose},{made_by}" for made_by in (RUN, REVISION)]
    for selector in selectors:
        for kind in KINDS:
            for name in _names(cluster, kind, operation, selector):
                cluster.delete(kind, name, operation)
    for _ in looks(timeout_s or TIMEOUT_S, FIRST_PAUSE_S, LAST_PAUSE_S):
        left = [name for selector in selectors for name in _names(cluster, "Pod", operation, selector)]
        if not left:
            return
    raise Unavailable("kubernetes", operation, f"the pod {left[0]!r} does not end", "Look at its node, and repeat it")


def _names(cluster: Cluster, kind: str, operation: str, selector: str) -> list[str]:
    try:
        return [str(one["metadata"]["name"]) for one in cluster.list(kind, operation, labels=selector)]
    except NotFound:  # the cluster has no such kind, or the namespace is gone
        return []
