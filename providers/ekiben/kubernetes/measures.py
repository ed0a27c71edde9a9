"""Counts and latencies of a revision, from what its servers tell at /metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from ekiben.errors import ProviderError
from ekiben.kubernetes.calls import Address, asked
from ekiben.kubernetes.client import Cluster, inside
from ekiben.kubernetes.facts import PORT
from ekiben.records import RevisionMetrics

__all__ = ["counted", "quantile_s"]

TIMEOUT_S = 10.0
SAMPLE = re.compile(r"\w+_request_(total|duration_seconds_bucket)\{(.*)\} ([0-9.eE+-]+)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
# What is asked about the server itself is no request of the model's.
OWN = re.compile(r"/(livez|readyz|healthz|metrics|docs\.json|schema\.json)?")


def counted(cluster: Cluster, label: str, value: str, revision: str, operation: str) -> RevisionMetrics:
    """Of the pods with this label, added up."""
    requests = errors = 0
    seen: dict[float, float] = {}
    for pod in cluster.list("Pod", operation, labels={label: value}):
        for kind, labels, number in _samples(cluster, pod, operation):
            if OWN.fullmatch(labels.get("endpoint", "")):
                continue
            if kind == "total":
                requests += int(number)
                errors += int(number) if labels.get("http_response_code", "").startswith("5") else 0
            else:
                bound = float(labels["le"])
                seen[bound] = seen.get(bound, 0.0) + number
    p50, p95, p99 = (round(1000 * quantile_s(seen, share), 3) for share in (0.50, 0.95, 0.99))
    return RevisionMetrics(revision=revision, requests=requests, errors=errors, p50_ms=p50, p95_ms=p95, p99_ms=p99)


def quantile_s(buckets: dict[float, float], share: float) -> float:
    """The time within which this share of the requests was answered: evenly spread in its bucket, as Prometheus has it."""
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0.0
    if not total:
        return 0.0
    below, before = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= share * total:
            if bound == float("inf"):
                return below
            inside = buckets[bound] - before
            return below + (bound - below) * ((share * total - before) / inside if inside else 1.0)
        below, before = bound, buckets[bound]
    return below


def _samples(cluster: Cluster, pod: Mapping[str, Any], operation: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """From the pod itself in the cluster, where a role need not reach pods through the API server; else through that."""
    address = str((pod.get("status") or {}).get("podIP") or "")
    if not address:
        return
    host = f"[{address}]" if ":" in address else address
    with suppress(ProviderError, OSError):  # one that starts or ends has nothing to tell
        if inside():
            at = Address(url=f"http://{host}:{PORT}")
            answer = asked(cluster, at, "GET", "metrics", operation, headers={}, timeout_s=TIMEOUT_S)
        else:
            answer = cluster.proxied_pod(f"{pod['metadata']['name']}:{PORT}", "metrics", operation, timeout_s=TIMEOUT_S)
        for line in answer.body.decode("utf-8", "replace").splitlines() if answer.status == 200 else ():
            if found := SAMPLE.fullmatch(line):
                yield found[1].partition("_")[0], dict(LABEL.findall(found[2])), float(found[3])
