"""Revisions without Knative: a Deployment, a Service and an HPA each. Traffic goes by the weights of an HTTPRoute where the cluster
has a gateway, else by how many pods of each take part in the endpoint's own Service.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ekiben.errors import AlreadyExists, NotFound, Unavailable, Unsupported
from ekiben.kubernetes.calls import Address
from ekiben.kubernetes.client import STRATEGIC, Cluster, inside
from ekiben.kubernetes.errors import trouble_of
from ekiben.kubernetes.facts import COMPONENT, PORT, REVISION, TRAFFIC, EndpointFacts, labels
from ekiben.kubernetes.knative import DIGEST, VERSION
from ekiben.kubernetes.pods import serving
from ekiben.records import ModelVersion, Part, Platform, Revision, RevisionState
from ekiben.revisions import revision_id
from ekiben.waiting import looks

__all__ = ["Deployments", "pods_by_weight", "route"]

WEIGHT, TAG = "ekiben.dev/weight", "ekiben.dev/tag"
# Gateways say of each generation of a route whether they follow it.
ROUTE_TIMEOUT_S = 60.0
CHANGE_TIMEOUT_S, FIRST_PAUSE_S, LAST_PAUSE_S = 600.0, 0.1, 2.0
# Until every node knows that a pod is not to be asked any more.
LEAVE_S, LEAVE_TIMEOUT_S = 5, 60.0
# Of its CPUs: what is busier gets another pod.
BUSY_PERCENT = 80


class Deployments:
    """The Deployments with this endpoint's labels. `pods` is the label by which a revision's pods are known."""

    def __init__(self, cluster: Cluster, facts: EndpointFacts, part: Part, platform: Platform) -> None:
        self._cluster, self._facts, self._part, self._platform = cluster, facts, part, platform
        self.pods = REVISION

    def revisions(self, operation: str) -> list[Revision]:
        """Newest first."""
        found = []
        for one in self._made(operation):
            meta = one["metadata"]
            state, reason = self._state(one, operation)
            found.append(Revision(
                id=meta["labels"][REVISION], endpoint=self._part.name, version=meta["annotations"].get(VERSION, ""),
                digest=meta["annotations"].get(DIGEST, ""), state=state, weight=float(meta["annotations"].get(WEIGHT, 0)),
                tag=meta["annotations"].get(TAG, ""), instances=int((one.get("status") or {}).get("readyReplicas") or 0),
                reason=reason, created_at=str(meta["creationTimestamp"]),
            ))  # fmt: skip
        return sorted(found, key=lambda one: (one.created_at, one.id), reverse=True)

    def make(self, version: ModelVersion, operation: str) -> None:
        """Make the revision of a version, without traffic. Silent where it is there."""
        id = revision_id(version)
        name, whose = self.name(id), labels(self._platform, self._part, revision=id)
        pod = serving(self._facts.pod, version, id)
        container = pod["containers"][0]
        container["readinessProbe"] = {"httpGet": {"path": "/readyz", "port": PORT}, "periodSeconds": 1}
        # Who is still sent here, while it ends, is answered.
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": LEAVE_S}}}
        pod["terminationGracePeriodSeconds"] = math.ceil(self._facts.drain_s) + LEAVE_S + 1
        template = {"metadata": {"labels": {**whose, TRAFFIC: "no"}}, "spec": pod}
        deployment = {
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": name, "labels": whose, "annotations": {
                VERSION: version.id, DIGEST: version.digest, WEIGHT: "0",
            }},
            "spec": {
                "replicas": 1, "selector": {"matchLabels": {COMPONENT: self._part.name, REVISION: id}}, "template": template,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "100%"}},
            },
        }  # fmt: skip
        with suppress(AlreadyExists):
            self._cluster.create("Deployment", deployment, operation)
        made = self._cluster.get("Deployment", name, operation)
        with suppress(AlreadyExists):
            self._cluster.create("Service", self._service(made, whose), operation)

    def state(self, id: str, operation: str) -> tuple[RevisionState, str]:
        """Of a revision that was made."""
        return self._state(self._cluster.get("Deployment", self.name(id), operation), operation)

    def tag(self, id: str, tag: str, operation: str) -> None:
        """Point a tag at a revision, and away from any other."""
        for one in self._made(operation):
            mine = one["metadata"]["labels"][REVISION] == id
            if mine or one["metadata"]["annotations"].get(TAG) == tag:
                self._note(one["metadata"]["name"], {TAG: tag if mine else None}, operation)

    def shift(self, weights: Mapping[str, float], operation: str) -> None:
        """Start what gets traffic, then move it, then let go of what has none. Raises Unavailable where pods do not start."""
        made = {one["metadata"]["labels"][REVISION]: one for one in self._made(operation)}
        given = {id: weight for id, weight in weights.items() if weight}
        least = max(self._facts.min_instances, 1)
        # While traffic is split by pods their number is the split: nothing else may change it.
        scaled = len(given) == 1 or bool(self._facts.route)
        if scaled:
            wanted = {id: max(least, made[id]["spec"]["replicas"]) for id in given}
        else:
            wanted = pods_by_weight(given, least, self._facts.max_instances)
        for id, pods in wanted.items():
            if not scaled:
                self._cluster.delete("HorizontalPodAutoscaler", self.name(id), operation)
            self._scale(made[id], pods, "yes", operation)
        for id in wanted:
            self._settled(id, operation)
        if self._facts.route:
            self._route(given, operation)
        for id, one in made.items():
            if id not in given:
                self._cluster.delete("HorizontalPodAutoscaler", self.name(id), operation)
                # Whatever state its pods are in: one that took part must not go on for want of another that is ready.
                self._scale(one, 1 if self._facts.route else 0, "no", operation)
            elif scaled:
                self._autoscale(one, operation)
            self._note(one["metadata"]["name"], {WEIGHT: f"{given.get(id, 0):g}"}, operation)
        for id in sorted(set(made) - set(given)):
            self._left(id, operation)
            self._scale(made[id], 1, "no", operation)

    def remove(self, id: str, operation: str) -> None:
        """Delete a revision without traffic, and wait until its pods have drained; silent where there is none."""
        self._cluster.delete("HorizontalPodAutoscaler", self.name(id), operation)
        self._cluster.delete("Deployment", self.name(id), operation)
        self._cluster.delete("Service", self.name(id), operation)
        own = {COMPONENT: self._part.name, REVISION: id}
        for _ in looks(CHANGE_TIMEOUT_S, FIRST_PAUSE_S, LAST_PAUSE_S):
            if not list(self._cluster.list("Pod", operation, labels=own)):
                return
        raise Unavailable("kubernetes", operation, "its pods do not end", "They go on ending; repeat it later")

    def address(self, id: str, operation: str) -> Address:
        """Where the endpoint is called, or one of its revisions by its id or a tag."""
        name = self._facts.service
        if id:
            ids = [one["metadata"]["labels"][REVISION] for one in self._made(operation)
                   if id in (one["metadata"]["labels"][REVISION], one["metadata"]["annotations"].get(TAG))]  # fmt: skip
            name = self.name(ids[0] if ids else id)
        elif self._facts.route:
            # The endpoint's own Service has no pods then: only the gateway knows who has the traffic.
            return Address(url=self._facts.ingress_url or self._facts.url, host=self._facts.url.partition("://")[2])
        url = f"http://{name}.{self._facts.namespace}.svc:{PORT}" if inside() else ""
        return Address(url=url, service=f"{name}:{PORT}")

    def name(self, id: str) -> str:
        return f"{self._facts.service}-{id}"

    def _made(self, operation: str) -> list[dict[str, Any]]:
        return list(self._cluster.list("Deployment", operation, labels=f"{COMPONENT}={self._part.name},{REVISION}"))

    def _state(self, deployment: Mapping[str, Any], operation: str) -> tuple[RevisionState, str]:
        status, meta = deployment.get("status") or {}, deployment["metadata"]
        if status.get("availableReplicas"):
            return "ready", ""
        own = {COMPONENT: self._part.name, REVISION: meta["labels"][REVISION]}
        troubles = [trouble_of(pod) for pod in self._cluster.list("Pod", operation, labels=own)]
        trouble = next(filter(None, troubles), None) or trouble_of(None, (), _failed(status))
        late = any(one.get("reason") == "ProgressDeadlineExceeded" for one in status.get("conditions") or ())
        state: RevisionState = "failed" if late or (trouble and trouble.lasting) else "starting"
        return state, str(trouble) if trouble else ""

    def _service(self, deployment: Mapping[str, Any], whose: Mapping[str, str]) -> dict[str, Any]:
        meta = deployment["metadata"]
        return {
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": meta["name"], "labels": dict(whose), "ownerReferences": [_owner(meta)]},
            "spec": {
                "selector": {COMPONENT: self._part.name, REVISION: whose[REVISION]},
                "ports": [{"name": "http", "port": PORT, "targetPort": PORT}],
            },
        }  # fmt: skip

    def _scale(self, deployment: Mapping[str, Any], pods: int, traffic: str, operation: str) -> None:
        """So many pods, with or without a part in the endpoint's Service: others, of which each starts before one of these ends."""
        spec: dict[str, Any] = {"replicas": pods}
        if not self._facts.route:
            spec["template"] = {"metadata": {"labels": {TRAFFIC: traffic}}}
        self._cluster.patch("Deployment", deployment["metadata"]["name"], {"spec": spec}, operation, how=STRATEGIC)

    def _settled(self, id: str, operation: str) -> None:
        for _ in looks(CHANGE_TIMEOUT_S, FIRST_PAUSE_S, LAST_PAUSE_S):
            one = self._cluster.get("Deployment", self.name(id), operation)
            status, wanted = one.get("status") or {}, one["spec"]["replicas"]
            same = status.get("observedGeneration", 0) >= one["metadata"]["generation"]
            if same and status.get("updatedReplicas", 0) == wanted == status.get("availableReplicas", 0) == status.get(
                "replicas", 0
            ):
                return
        _, why = self.state(id, operation)
        raise Unavailable(
            "kubernetes", operation, f"the pods of {id} are not ready{f': {why}' if why else ''}", "Repeat it later"
        )

    def _left(self, id: str, operation: str) -> None:
        """Wait until no pod of it takes part any more; those that answer their last requests are not waited for."""
        for _ in looks(LEAVE_TIMEOUT_S, FIRST_PAUSE_S, LAST_PAUSE_S):
            status = self._cluster.get("Deployment", self.name(id), operation).get("status") or {}
            if self._facts.route or not status.get("replicas"):
                return

    def _route(self, weights: Mapping[str, float], operation: str) -> None:
        """Set the route's weights, and wait until its gateway follows. Raises Unavailable where none does."""
        refs = [{"name": self.name(id), "port": PORT, "weight": round(100 * weight)} for id, weight in weights.items()]
        route = self._facts.route
        made = self._cluster.patch("HTTPRoute", route, {"spec": {"rules": [{"backendRefs": refs}]}}, operation)
        for _ in looks(ROUTE_TIMEOUT_S, FIRST_PAUSE_S, LAST_PAUSE_S):
            told = (self._cluster.get("HTTPRoute", route, operation).get("status") or {}).get("parents") or ()
            said = [one for parent in told for one in parent.get("conditions") or () if one["type"] == "Accepted"
                    and one.get("observedGeneration", 0) >= made["metadata"]["generation"]]  # fmt: skip
            if refused := [str(one.get("message", "")) for one in said if one["status"] == "False"]:
                raise Unavailable(
                    "kubernetes", operation, f"the gateway does not follow its HTTPRoute: {refused[0]}",
                    "Look at the route, and at the Gateway",
                )  # fmt: skip
            if said:
                return
        raise Unavailable(
            "kubernetes", operation, f"no gateway has followed the HTTPRoute {route!r} after {ROUTE_TIMEOUT_S:g} s",
            "See that the Gateway that the stack's config names is there, and repeat it",
        )  # fmt: skip

    def _autoscale(self, deployment: Mapping[str, Any], operation: str) -> None:
        meta, least = deployment["metadata"], max(self._facts.min_instances, 1)
        cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": BUSY_PERCENT}}
        scaler = {
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": meta["name"], "labels": meta["labels"], "ownerReferences": [_owner(meta)]},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": meta["name"]},
                "minReplicas": least, "maxReplicas": max(self._facts.max_instances, least),
                "metrics": [{"type": "Resource", "resource": cpu}],
            },
        }  # fmt: skip
        with suppress(AlreadyExists):
            self._cluster.create("HorizontalPodAutoscaler", scaler, operation)

    def _note(self, name: str, annotations: Mapping[str, str | None], operation: str) -> None:
        with suppress(NotFound):
            self._cluster.patch("Deployment", name, {"metadata": {"annotations": dict(annotations)}}, operation)


def pods_by_weight(weights: Mapping[str, float], least: int, most: int) -> dict[str, int]:
    """How many pods of each revision make the split: the fewest that do so exactly. Raises Unsupported where `most` are too few."""
    if len(weights) == 1:
        return dict.fromkeys(weights, least)
    for total in range(max(least, len(weights)), most + 1):
        pods = {id: weight * total / 100 for id, weight in weights.items()}
        if all(abs(count - round(count)) < 1e-6 and round(count) > 0 for count in pods.values()):
            return {id: round(count) for id, count in pods.items()}
    asked = ":".join(f"{weight:g}" for weight in weights.values())
    raise Unsupported(
        f"Without Knative and without a gateway traffic is split by pods, and max_instances={most} of them do not make {asked}. "
        "Name a gateway in the stack's config (ekiben:gateway), raise max_instances, or split it otherwise."
    )


def route(gateway: str, host: str, service: str) -> dict[str, Any]:
    """The spec of the HTTPRoute of an endpoint without a revision, on the Gateway NAMESPACE/NAME; `shift` changes its rules."""
    namespace, _, name = gateway.partition("/")
    return {
        "parentRefs": [{"name": name, "namespace": namespace}], "hostnames": [host],
        "rules": [{"backendRefs": [{"name": service, "port": PORT}]}],
    }  # fmt: skip


def _owner(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "name": meta["name"], "uid": meta["uid"]}


def _failed(status: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [one for one in status.get("conditions") or () if one.get("type") in ("Progressing", "ReplicaFailure")]
