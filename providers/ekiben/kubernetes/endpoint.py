"""Endpoints on Kubernetes: the contract, over revisions that are Knative's or Deployments."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from ekiben import runtime
from ekiben.bentos import check_bytes, last_predictions
from ekiben.errors import AccessDenied, EkibenError, ModelFailed, NotFound, ProviderError, SpecError, Unavailable
from ekiben.invocations import as_json, parsed, refusal
from ekiben.kubernetes.calls import asked, headers_of
from ekiben.kubernetes.client import Answer, Cluster
from ekiben.kubernetes.deployments import Deployments
from ekiben.kubernetes.errors import Trouble, trouble_of
from ekiben.kubernetes.facts import TOKEN, EndpointFacts, facts_of
from ekiben.kubernetes.knative import Knative
from ekiben.kubernetes.measures import counted
from ekiben.kubernetes.storage import open_storage, secret_of
from ekiben.records import LoggedPrediction, ModelVersion, Part, Platform, Prediction, Revision, RevisionMetrics
from ekiben.revisions import check_tag, check_weights, revision_id
from ekiben.waiting import looks

__all__ = ["Endpoint"]

# An image to be pulled, a bento to be fetched, and a server to start.
START_TIMEOUT_S, FIRST_PAUSE_S, LAST_PAUSE_S = 600.0, 0.2, 2.0
# The ingress learns of a new revision some seconds after it is ready.
ROUTE_TIMEOUT_S = 60.0
READY = "readyz"
TAIL_LINES = 20
GATEWAY_TIMEOUT = 504
# Beside what the model may take, and what a request is held for: the way there and back.
SLACK_S = 10.0


class Endpoint(runtime.Endpoint):
    """The revisions of one endpoint, on what its facts say."""

    def __init__(self, part: Part, platform: Platform) -> None:
        super().__init__(part, platform)
        self._facts = facts_of(part, EndpointFacts)
        self._cluster = Cluster(self._facts.namespace, self._facts.context)
        kinds: Mapping[str, type[Knative | Deployments]] = {"knative": Knative, "deployments": Deployments}
        self._made = kinds[self._facts.backend](self._cluster, self._facts, part, platform)
        self._storage = open_storage(
            self._facts.storage_uri, self._facts.namespace, self._facts.s3, self._facts.context
        )
        self._token = ""

    def deploy(self, version: ModelVersion, *, tag: str = "") -> Revision:
        """See `runtime.Endpoint`. A revision that does not start is gone again when this raises."""
        id = revision_id(version)
        operation = f"deploy {version.id} on {self.part.name!r}"
        if tag:
            check_tag(tag)
        there = next((one for one in self.revisions() if one.id == id), None)
        if there is not None and there.state == "failed" and not there.weight:
            self._made.remove(id, operation)
            there = None
        if there is None:
            check_bytes(self._storage, version, operation)
            self._made.make(version, operation)
        if there is None or not there.weight:
            self._start(version, id, operation)
        if tag:
            self._made.tag(id, tag, operation)
        return next(revision for revision in self.revisions() if revision.id == id)

    def revisions(self) -> list[Revision]:
        return self._made.revisions(f"list the revisions of {self.part.name!r}")

    def shift(self, weights: Mapping[str, float]) -> list[Revision]:
        """See `runtime.Endpoint`. Raises Unsupported for a split that cannot be made of what the endpoint is on."""
        operation = f"shift the traffic of {self.part.name!r}"
        check_weights("kubernetes", self.part.name, weights, {one.id: one.state for one in self.revisions()})
        self._made.shift(weights, operation)
        return self.revisions()

    def retire(self, revision: str) -> None:
        operation = f"retire {revision!r} of {self.part.name!r}"
        there = next((one for one in self.revisions() if one.id == revision), None)
        if there is None:
            return
        if there.weight:
            raise SpecError(
                f"The revision {revision} of {self.part.name!r} has {there.weight:g} % of the traffic: shift it to another one "
                "first."
            )
        self._made.remove(revision, operation)

    def invoke(self, payload: Any, *, route: str = "predict", revision: str = "") -> Prediction:
        name, operation = self.part.name, f"call the endpoint {self.part.name!r}"
        body = as_json(payload, "The payload").encode()
        if revision:
            self._known(revision, operation)
        began_ms, began = 1000 * time.time(), time.perf_counter()
        answer = self._asked("POST", quote(route.lstrip("/")), operation, revision, body)
        latency_ms = (time.perf_counter() - began) * 1000
        if answer.status >= 400:
            raise self._refused(answer, route, operation)
        return Prediction(
            endpoint=name, revision=answer.headers.get("x-ekiben-revision", "") or self._answered(revision, operation),
            body=parsed("kubernetes", name, route, answer.body), latency_ms=latency_ms,
            cold=float(answer.headers.get("x-ekiben-since-ms") or 0) > began_ms, id=answer.headers.get("x-request-id", ""),
        )  # fmt: skip

    def metrics(self) -> list[RevisionMetrics]:
        """See `runtime.Endpoint`. Of the pods that are there: what one has counted goes with it, as its latencies do."""
        operation = f"measure {self.part.name!r}"
        return [
            counted(self._cluster, self._made.pods, self._pods_of(one.id), one.id, operation)
            for one in self.revisions()
        ]

    def predictions(self, last: int = 100) -> list[LoggedPrediction]:
        return last_predictions(self._storage, self.part.name, last)

    def _pods_of(self, id: str) -> str:
        return self._made.name(id) if self._facts.backend == "knative" else id

    def _start(self, version: ModelVersion, id: str, operation: str) -> None:
        """Wait until the revision answers. Raises ModelFailed, and the revision is gone; Unavailable, and it goes on starting."""
        why = ""
        for _ in looks(START_TIMEOUT_S, FIRST_PAUSE_S, LAST_PAUSE_S):
            state, why = self._made.state(id, operation)
            trouble = None if state == "ready" else self._trouble(id, operation)
            if state == "failed" or (trouble and trouble.lasting):
                tail = self._tail(id, operation)
                self._made.remove(id, operation)
                said = f"kubernetes: {version.id} does not start: {trouble or why}"
                raise ModelFailed(said, tail=tail)
            if state == "ready":
                self._smoked(version, id, operation)
                return
        raise Unavailable(
            "kubernetes", operation, f"it has not started after {START_TIMEOUT_S:g} s: {why}", "Repeat it later"
        )

    def _smoked(self, version: ModelVersion, id: str, operation: str) -> None:
        """The first request, by the revision's own address."""
        answer = Answer(0, {}, b"")
        for _ in looks(ROUTE_TIMEOUT_S, FIRST_PAUSE_S, LAST_PAUSE_S):
            with suppress(Unavailable):
                answer = self._asked("GET", READY, operation, id)
                if answer.status < 400:
                    return
        tail = self._tail(id, operation)
        self._made.remove(id, operation)
        said = answer.body[:500].decode("utf-8", "replace") if answer.status else "nothing answers"
        raise ModelFailed(f"kubernetes: {version.id} is not ready (HTTP {answer.status}): {said}", tail=tail)

    def _asked(self, method: str, path: str, operation: str, revision: str, body: bytes = b"") -> Answer:
        if self._facts.token_secret and not self._token:
            self._token = secret_of(self._cluster, self._facts.token_secret, TOKEN, operation)
        address = self._made.address(revision, operation)
        timeout_s = self._facts.timeout_s + self._facts.hold_s + SLACK_S
        return asked(
            self._cluster,
            address,
            method,
            path,
            operation,
            body=body,
            headers=headers_of(self._token),
            timeout_s=timeout_s,
        )

    def _refused(self, answer: Answer, route: str, operation: str) -> EkibenError:
        if answer.status in (401, 403):
            return AccessDenied(
                "kubernetes", operation, f"the token is refused (HTTP {answer.status})",
                f"Look at the Secret {self._facts.token_secret!r}, which the servers have read when they started",
            )  # fmt: skip
        if answer.status in (404, 502, 503) and not self._released(operation):
            return Unavailable(
                "kubernetes",
                operation,
                "no revision of it has traffic",
                "Release a model with: ekiben release MODEL:VERSION",
            )
        if answer.status == GATEWAY_TIMEOUT:
            return ModelFailed(
                f"kubernetes: the model behind {self.part.name!r} did not answer {route!r} within its {self._facts.timeout_s:g} s "
                f"and the {self._facts.hold_s:g} s that a call may be held (HTTP {answer.status})."
            )
        return refusal("kubernetes", self.part.name, route, answer.status, answer.body)

    def _released(self, operation: str) -> bool:
        return any(one.weight for one in self._made.revisions(operation))

    def _known(self, revision: str, operation: str) -> None:
        """Raise NotFound unless there is a revision with this id or tag."""
        there = self._made.revisions(operation)
        if not any(revision in (one.id, one.tag) for one in there):
            names = ", ".join(one.id for one in there) or "none"
            raise NotFound("kubernetes", operation, f"there is no revision {revision!r}; there is: {names}")

    def _answered(self, revision: str, operation: str) -> str:
        """Which revision it was, where its server does not say: only one can have been."""
        there = self._made.revisions(operation)
        if revision:
            return next((one.id for one in there if revision in (one.id, one.tag)), revision)
        given = [one.id for one in there if one.weight]
        return given[0] if len(given) == 1 else ""

    def _pods(self, id: str, operation: str) -> Iterator[dict[str, Any]]:
        return self._cluster.list("Pod", operation, labels={self._made.pods: self._pods_of(id)})

    def _trouble(self, id: str, operation: str) -> Trouble | None:
        for pod in self._pods(id, operation):
            if trouble := trouble_of(pod):
                return trouble
        return None

    def _tail(self, id: str, operation: str) -> str:
        """The end of what its server has logged when it last ended, else of what it logs now; empty where nothing is to be had."""
        with suppress(ProviderError):
            for pod in self._pods(id, operation):
                for previous in (True, False):
                    if text := self._said(pod, operation, previous):
                        return text
        return ""

    def _said(self, pod: Mapping[str, Any], operation: str, previous: bool) -> str:
        name, container = pod["metadata"]["name"], pod["spec"]["containers"][0]["name"]
        with suppress(ProviderError):
            found = self._cluster.log(name, operation, tail=TAIL_LINES, container=container, previous=previous)
            return "\n".join(line for each in found if (line := each.decode("utf-8", "replace")).strip())
        return ""
