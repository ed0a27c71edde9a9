"""Revisions on Knative Serving: the template of one Knative Service makes them, its `traffic` has their weights and their tags.

Every revision has a tag of its own, its id, by which it is called whatever its weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from ekiben.errors import NoCapacity, NotFound, PreconditionFailed, ProviderError, Unavailable, Unsupported
from ekiben.kubernetes.backends import BACKENDS
from ekiben.kubernetes.calls import Address
from ekiben.kubernetes.client import JSON_PATCH, Cluster, inside
from ekiben.kubernetes.errors import Trouble, trouble_of
from ekiben.kubernetes.facts import REVISION, EndpointFacts, labels
from ekiben.kubernetes.pods import serving
from ekiben.records import ModelVersion, Part, Platform, Revision, RevisionState
from ekiben.revisions import revision_id
from ekiben.waiting import looks

__all__ = ["DIGEST", "VERSION", "Knative"]

VERSION, DIGEST = "ekiben.dev/version", "ekiben.dev/digest"
CHANGE_TIMEOUT_S, FIRST_PAUSE_S, LAST_PAUSE_S = 120.0, 0.1, 1.0
SERVICE_LABEL, REVISION_LABEL = "serving.knative.dev/service", "serving.knative.dev/revision"


class Knative:
    """The revisions of the Knative Service that the facts name."""

    def __init__(self, cluster: Cluster, facts: EndpointFacts, part: Part, platform: Platform) -> None:
        self._cluster, self._facts, self._part, self._platform = cluster, facts, part, platform
        self.pods = REVISION_LABEL

    def revisions(self, operation: str) -> list[Revision]:
        """Newest first."""
        traffic = self._service(operation)["spec"].get("traffic") or []
        weights: dict[str, float] = {}
        tags: dict[str, str] = {}
        for entry in traffic:
            name = str(entry.get("revisionName", ""))
            weights[name] = weights.get(name, 0.0) + float(entry.get("percent") or 0)
            if (tag := str(entry.get("tag") or "")) and not name.endswith(f"-{tag}"):
                tags[name] = tag
        found = []
        for one in self._made(operation):
            meta, name = one["metadata"], one["metadata"]["name"]
            state, reason = _state(one)
            found.append(Revision(
                id=meta["labels"][REVISION], endpoint=self._part.name, version=meta["annotations"].get(VERSION, ""),
                digest=meta["annotations"].get(DIGEST, ""), state=state, weight=weights.get(name, 0.0), tag=tags.get(name, ""),
                instances=int((one.get("status") or {}).get("actualReplicas") or 0), reason=reason,
                created_at=str(meta["creationTimestamp"]),
            ))  # fmt: skip
        return sorted(found, key=lambda one: (one.created_at, _number(one.id)), reverse=True)

    def make(self, version: ModelVersion, operation: str) -> None:
        """Make the revision of a version, without traffic; what has it keeps it. Silent where it is there."""
        id = revision_id(version)
        whose = labels(self._platform, self._part, revision=id)
        template = {
            "metadata": {
                "name": self.name(id), "labels": whose,
                "annotations": {**self._facts.annotations, VERSION: version.id, DIGEST: version.digest},
            },
            "spec": {
                # More than one instance's share waits at the queue of its pod, where it is counted, and not at the server.
                "containerConcurrency": 0, "timeoutSeconds": self._timeout_s, **serving(self._facts.pod, version, id),
            },
        }  # fmt: skip

        def change(service: Mapping[str, Any]) -> dict[str, Any]:
            if service["spec"]["template"]["metadata"].get("name") == self.name(id):
                return {}
            return {"template": template, "traffic": [*self._pinned(service), self._tagged(id, id)]}

        with suppress(NotFound):
            self._cluster.get("KnativeRevision", self.name(id), operation)
            return
        self._change(change, operation)

    def state(self, id: str, operation: str) -> tuple[RevisionState, str]:
        """Of a revision that was made; what Knative has not come to yet is starting."""
        try:
            return _state(self._cluster.get("KnativeRevision", self.name(id), operation))
        except NotFound:
            service = self._service(operation)
            failed = [
                one for one in (service.get("status") or {}).get("conditions") or () if one.get("status") == "False"
            ]
            observed = (service.get("status") or {}).get("observedGeneration")
            if observed == service["metadata"]["generation"] and (trouble := trouble_of(None, (), failed)):
                return "failed", str(trouble)
            return "starting", ""

    def tag(self, id: str, tag: str, operation: str) -> None:
        """Point a tag at a revision, and away from any other."""

        def change(service: Mapping[str, Any]) -> dict[str, Any]:
            kept = [one for one in self._pinned(service) if one.get("tag") != tag]
            return {"traffic": [*kept, self._tagged(id, tag)]}

        self._change(change, operation)

    def shift(self, weights: Mapping[str, float], operation: str) -> None:
        """One patch, and wait until it holds. Raises Unsupported for parts of a per cent."""
        if broken := [f"{weight:g}" for weight in weights.values() if weight != int(weight)]:
            raise Unsupported(
                f"Endpoint {self._part.name!r}: Knative splits traffic in whole per cents, and {broken[0]} is none. Round it."
            )
        given = [{"revisionName": self.name(id), "percent": int(weight)} for id, weight in weights.items() if weight]

        def change(service: Mapping[str, Any]) -> dict[str, Any]:
            return {"traffic": [*given, *(one for one in self._pinned(service) if one.get("tag"))]}

        self._change(change, operation)

    def remove(self, id: str, operation: str) -> None:
        """Delete a revision without traffic; silent where there is none."""
        name = self.name(id)

        def change(service: Mapping[str, Any]) -> dict[str, Any]:
            kept = [one for one in self._pinned(service) if one.get("revisionName") != name]
            changed: dict[str, Any] = {"traffic": kept}
            if service["spec"]["template"]["metadata"].get("name") == name:
                # Knative makes the template's revision anew when it is gone, so the template is to be another one's.
                changed["template"] = self._other(name, kept, operation)
            return changed

        self._change(change, operation)
        for _ in looks(CHANGE_TIMEOUT_S, FIRST_PAUSE_S, LAST_PAUSE_S):
            # As long as Knative takes it for the newest it makes it anew.
            if (self._service(operation).get("status") or {}).get("latestCreatedRevisionName") != name:
                break
        self._cluster.delete("KnativeRevision", name, operation)
        for _ in looks(CHANGE_TIMEOUT_S, FIRST_PAUSE_S, LAST_PAUSE_S):
            try:
                self._cluster.get("KnativeRevision", name, operation)
            except NotFound:
                return
        raise Unavailable(
            "kubernetes", operation, f"the revision {name} is not gone", "It goes on ending; repeat it later"
        )

    def address(self, id: str, operation: str) -> Address:
        """Where the endpoint is called, or one of its revisions by its id or a tag."""
        host = urlsplit(self._facts.url).netloc
        if id:
            host = f"{id}-{host}"
            for told in (self._service(operation).get("status") or {}).get("traffic") or ():
                if told.get("tag") == id and told.get("url"):
                    host = urlsplit(str(told["url"])).netloc
        if self._facts.ingress_url:
            return Address(url=self._facts.ingress_url, host=host)
        if inside():
            return Address(url=f"http://{id}-{self._inside}" if id else f"http://{self._inside}")
        return Address(url=f"{urlsplit(self._facts.url).scheme or 'http'}://{host}")

    def name(self, id: str) -> str:
        return f"{self._facts.service}-{id}"

    @property
    def _timeout_s(self) -> int:
        """Knative knows one limit, for what the model takes and for how long a call is held before."""
        return min(BACKENDS["knative"].timeout_s, math.ceil(self._facts.timeout_s + self._facts.hold_s))

    @property
    def _inside(self) -> str:
        return f"{self._facts.service}.{self._facts.namespace}.svc"

    def _made(self, operation: str) -> list[dict[str, Any]]:
        of_service = f"{SERVICE_LABEL}={self._facts.service},{REVISION}"
        found = self._cluster.list("KnativeRevision", operation, labels=of_service)
        return [one for one in found if "deletionTimestamp" not in one["metadata"]]

    def _service(self, operation: str) -> dict[str, Any]:
        try:
            return self._cluster.get("KnativeService", self._facts.service, operation)
        except NotFound as error:
            raise NotFound("kubernetes", operation, error.why, "Mend it with `ekiben up`") from error

    def _pinned(self, service: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The traffic as it is, by the names of revisions: what is newest must not get it for being new."""
        pinned = []
        for entry in service["spec"].get("traffic") or ():
            one = {key: value for key, value in entry.items() if key != "latestRevision"}
            if not one.get("revisionName"):
                newest = (service.get("status") or {}).get("latestReadyRevisionName")
                if not newest:
                    raise Unavailable(
                        "kubernetes",
                        f"change the endpoint {self._part.name!r}",
                        "its first revision is not ready yet",
                        "Repeat it",
                    )
                one["revisionName"] = newest
            pinned.append(one)
        return pinned

    def _tagged(self, id: str, tag: str) -> dict[str, Any]:
        return {"revisionName": self.name(id), "percent": 0, "tag": tag}

    def _other(self, name: str, traffic: list[dict[str, Any]], operation: str) -> dict[str, Any]:
        """The template of a revision that stays: one with traffic first."""
        names = [str(one["revisionName"]) for one in sorted(traffic, key=lambda one: -int(one.get("percent") or 0))]
        for other in names:
            with suppress(NotFound):
                found = self._cluster.get("KnativeRevision", other, operation)
                meta, own = found["metadata"], ("ekiben.dev/", "app.kubernetes.io/", "autoscaling.knative.dev/")
                return {
                    "metadata": {
                        "name": other,
                        "labels": {key: value for key, value in meta.get("labels", {}).items() if key.startswith(own)},
                        "annotations": {key: value for key, value in meta.get("annotations", {}).items() if key.startswith(own)},
                    },
                    "spec": found["spec"],
                }  # fmt: skip
        raise Unavailable("kubernetes", operation, f"no revision is left beside {name}", "Mend it with `ekiben up`")

    def _change(self, change: Callable[[Mapping[str, Any]], dict[str, Any]], operation: str) -> None:
        """Change the Service's spec, again where somebody else was quicker, and wait until Knative has followed."""
        disturbed: ProviderError | None = None
        for _ in looks(CHANGE_TIMEOUT_S, FIRST_PAUSE_S, LAST_PAUSE_S):
            service = self._service(operation)
            try:
                wanted = change(service)
                if all(service["spec"].get(key) == value for key, value in wanted.items()):
                    break
                steps = [{"op": "add", "path": f"/spec/{key}", "value": value} for key, value in wanted.items()]
                version = service["metadata"]["resourceVersion"]
                seen = {"op": "replace", "path": "/metadata/resourceVersion", "value": version}
                service = self._cluster.patch(
                    "KnativeService", self._facts.service, [seen, *steps], operation, how=JSON_PATCH
                )
                break
            except (PreconditionFailed, Unavailable) as error:
                disturbed = error
        else:
            why = disturbed.why if disturbed else "others keep changing it"
            raise Unavailable("kubernetes", operation, why, "Repeat it later") from disturbed
        if "traffic" in wanted:
            self._followed(service["metadata"]["generation"], operation)

    def _followed(self, generation: int, operation: str) -> None:
        """Wait until the traffic is as it was asked. One that names a revision which is not ready waits for that one elsewhere."""
        for _ in looks(CHANGE_TIMEOUT_S, FIRST_PAUSE_S, LAST_PAUSE_S):
            service = self._service(operation)
            status = service.get("status") or {}
            routed: Mapping[str, Any] = next(
                (one for one in status.get("conditions") or () if one["type"] == "RoutesReady"), {}
            )
            wanted = {
                (one.get("revisionName"), one.get("percent") or 0)
                for one in service["spec"]["traffic"]
                if one.get("percent")
            }
            holds = {
                (one.get("revisionName"), one.get("percent") or 0)
                for one in status.get("traffic") or ()
                if one.get("percent")
            }
            if status.get("observedGeneration", 0) < generation:
                continue  # what it says is of what was asked before
            if routed.get("reason") == "RevisionMissing" or (wanted <= holds and routed.get("status") == "True"):
                return
        raise Unavailable(
            "kubernetes", operation, "Knative does not follow", "Look at the Knative Service, and repeat it"
        )


def _state(revision: Mapping[str, Any]) -> tuple[RevisionState, str]:
    conditions = {one["type"]: one for one in (revision.get("status") or {}).get("conditions") or ()}
    ready = conditions.get("Ready", {})
    if ready.get("status") == "True":
        return "ready", ""
    if ready.get("status") == "False":
        trouble = trouble_of(None, (), conditions.values())
        if trouble and trouble.kind is NoCapacity:
            # Knative takes it back when a pod that ends, or a node that comes, has made room.
            return "starting", str(trouble)
        return "failed", str(trouble) if trouble else f"{ready.get('reason', '')}: {ready.get('message', '')}"
    waits: Trouble | None = trouble_of(None, (), conditions.values())
    return "starting", str(waits) if waits else ""


def _number(id: str) -> int:
    return int(id[1:].partition("-")[0])
