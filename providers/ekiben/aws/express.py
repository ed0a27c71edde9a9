"""Endpoints on ECS Express: a revision is a task definition, and one service has the traffic.

A revision without traffic runs as a service of its own, one task behind an address of its own, until it gets the traffic or is
retired. ECS itself moves traffic from one revision to the next: a few per cent first, then all, and back where too many calls fail.
"""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from ekiben import runtime
from ekiben.aws.client import Cloud
from ekiben.aws.facts import ExpressFacts, facts_of, tags
from ekiben.aws.hosting import no_tags
from ekiben.aws.logs import lines
from ekiben.aws.measures import BALANCER, measured
from ekiben.aws.services import Definition, Services, address
from ekiben.aws.storage import open_storage
from ekiben.bentos import check_bytes, last_predictions
from ekiben.errors import ModelFailed, NotFound, SpecError, Unavailable
from ekiben.invocations import as_json, parsed, refusal
from ekiben.records import LoggedPrediction, ModelVersion, Part, Platform, Prediction, Revision, RevisionMetrics
from ekiben.revisions import REVISION, check_weights, revision_id, whole

__all__ = ["Endpoint"]

CONNECT_TIMEOUT_S = 10.0
TAIL_LINES = 20
RELEASE = "Release a model with: ekiben release MODEL:VERSION"


class Endpoint(runtime.Endpoint):
    """The task definitions and services of one component."""

    def __init__(self, part: Part, platform: Platform) -> None:
        super().__init__(part, platform)
        self._facts = facts_of(part, ExpressFacts)
        self._cloud = Cloud(self._facts.region)
        self._services = Services(self._cloud, self._facts, tags(platform, part))
        self._storage = open_storage(self._facts.storage_uri, self._facts.region)

    @property
    def url(self) -> str:
        """See `runtime.Endpoint`. ECS makes it with the service, when a revision first gets the traffic, and tells it then."""
        found = self._services.service(f"look up the address of {self.part.name!r}", self._facts.service)
        return address(found) if found is not None else ""

    def deploy(self, version: ModelVersion, *, tag: str = "") -> Revision:
        """See `runtime.Endpoint`. Takes some minutes. A revision that does not start is gone again.

        Raises Unsupported for a tag: a revision is called by its own name.
        """
        id, operation = revision_id(version), f"deploy {version.id} on {self.part.name!r}"
        no_tags(self.part.name, tag, id)
        definitions = self._services.definitions(operation)
        if id not in definitions:
            check_bytes(self._storage, version, operation)
            mine = self._services.register(operation, version)
            # Of two at once that made one each the first is the revision; each takes back its own.
            definitions = self._services.definitions(operation)
            if definitions[id].arn != mine:
                self._services.deregister(operation, [mine])
        if self._live(operation, definitions) != id:
            self._start(operation, version, definitions[id])
        return next(revision for revision in self.revisions() if revision.id == id)

    def revisions(self) -> list[Revision]:
        """See `runtime.Endpoint`. While ECS moves traffic to a revision, the one before is told to have it."""
        operation = f"list the revisions of {self.part.name!r}"
        definitions = self._services.definitions(operation)
        live = self._live(operation, definitions)
        found = [
            Revision(
                id=id, endpoint=self.part.name, version=one.version, digest=one.digest, state="ready",
                weight=100.0 if id == live else 0.0, created_at=one.created_at,
                instances=self._services.tasks(operation, self._facts.service if id == live else self._own(id)),
            )
            for id, one in definitions.items()
        ]  # fmt: skip
        return sorted(found, key=lambda revision: revision.created_at, reverse=True)

    def shift(self, weights: Mapping[str, float]) -> list[Revision]:
        """See `runtime.Endpoint`. Takes some ten minutes: ECS watches the revision with a few per cent, then with all of it.

        Raises Unsupported for more than one revision with traffic, ModelFailed where ECS took the traffic back.
        """
        operation = f"shift the traffic of {self.part.name!r}"
        definitions = self._services.definitions(operation)
        check_weights("aws", self.part.name, weights, dict.fromkeys(definitions, "ready"))
        id = whole(self.part.name, weights, "ECS Express moves all traffic from one revision to the next by itself")
        failed = self._services.put(
            operation, self._facts.service, definitions[id].arn, self._facts.min_instances, self._facts.max_instances
        )
        if failed:
            raise ModelFailed(
                f"aws: {definitions[id].version} does not take the traffic of {self.part.name!r}: {failed}.",
                tail=self._tail(id), log_uri=self._log_uri,
            )  # fmt: skip
        self._services.delete(operation, self._own(id))
        return self.revisions()

    def retire(self, revision: str) -> None:
        operation = f"retire {revision!r} of {self.part.name!r}"
        if not REVISION.fullmatch(revision):
            return
        if revision == self._live(operation, self._services.definitions(operation)):
            raise SpecError(
                f"The revision {revision} of {self.part.name!r} has 100 % of the traffic: shift it to another one first."
            )
        self._remove(operation, revision)

    def invoke(self, payload: Any, *, route: str = "predict", revision: str = "") -> Prediction:
        """See `runtime.Endpoint`. Raises Unavailable for a revision that runs nowhere: one that had the traffic before."""
        name, operation = self.part.name, f"call the endpoint {self.part.name!r}"
        body = as_json(payload, "The payload").encode()
        definitions = self._services.definitions(operation)
        live = self._live(operation, definitions)
        id = revision or live
        if revision and revision not in definitions:
            there = ", ".join(definitions) or "none"
            raise NotFound("aws", operation, f"there is no revision {revision!r}; there is: {there}")
        found = self._services.service(operation, self._facts.service if id == live else self._own(id))
        if found is None or not id:
            why = f"the revision {revision} does not run" if revision else "no revision of it has traffic"
            raise Unavailable("aws", operation, why, RELEASE)
        began = time.perf_counter()
        status, headers, said = _post(
            operation, address(found), f"/{quote(route.lstrip('/'))}", body, self._facts.timeout_s
        )
        if status >= 400:
            raise refusal("aws", name, route, status, said)
        latency_ms = (time.perf_counter() - began) * 1000
        return Prediction(
            endpoint=name, revision=id, body=parsed("aws", name, route, said), latency_ms=latency_ms,
            id=headers.get("x-request-id", ""),
        )  # fmt: skip

    def metrics(self) -> list[RevisionMetrics]:
        """See `runtime.Endpoint`. What the load balancer counted since the revision got the traffic, or was deployed."""
        operation = f"measure {self.part.name!r}"
        definitions = self._services.definitions(operation)
        live = self._live(operation, definitions)
        found = []
        for one in self.revisions():
            service = self._services.service(operation, self._facts.service if one.id == live else self._own(one.id))
            where = self._services.groups(operation, service) if service else []
            since = self._services.since(service) if service else one.created_at
            found.append(measured(self._cloud, operation, one.id, since, where, BALANCER))
        return found

    def predictions(self, last: int = 100) -> list[LoggedPrediction]:
        return last_predictions(self._storage, self.part.name, last)

    def _start(self, operation: str, version: ModelVersion, definition: Definition) -> None:
        """Run the revision beside the one with the traffic. Raises ModelFailed, and it is gone."""
        id = revision_id(version)
        failed = self._services.put(operation, self._own(id), definition.arn, 1, 1)
        if failed:
            tail = self._tail(id)
            self._remove(operation, id)
            raise ModelFailed(f"aws: {version.id} does not start: {failed}.", tail=tail, log_uri=self._log_uri)

    def _remove(self, operation: str, revision: str) -> None:
        self._services.delete(operation, self._own(revision))
        self._services.deregister(operation, self._services.arns(operation, revision))

    def _live(self, operation: str, definitions: Mapping[str, Definition]) -> str:
        """The revision with the traffic; empty where there is none."""
        serving = self._services.serving(self._services.service(operation, self._facts.service))
        return next((id for id, one in definitions.items() if one.arn == serving), "")

    def _own(self, revision: str) -> str:
        """What the service is called that a revision without traffic runs as."""
        return f"{self._facts.service}-{revision}"

    def _tail(self, revision: str) -> str:
        operation = f"read the log of {revision}"
        found = list(lines(self._cloud, self._facts.log_group, operation, prefix=f"{revision}/"))
        return "\n".join(found[-TAIL_LINES:])

    @property
    def _log_uri(self) -> str:
        return f"cloudwatch:{self._facts.region}:{self._facts.log_group}"


def _post(operation: str, url: str, path: str, body: bytes, timeout_s: float) -> tuple[int, Mapping[str, str], bytes]:
    """Sent once: status, headers (names in lower case), body. Raises Unavailable where there is no answer."""
    where = urlsplit(url)
    if where.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(
            where.hostname or "", where.port, timeout=CONNECT_TIMEOUT_S, context=context
        )
    else:
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=CONNECT_TIMEOUT_S)  # type: ignore[assignment]
    try:
        connection.connect()
        connection.sock.settimeout(timeout_s)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        connection.request("POST", where.path.rstrip("/") + path, body=body, headers=headers)
        response = connection.getresponse()
        named = {name.lower(): value for name, value in response.getheaders()}
        return response.status, named, response.read()
    except TimeoutError as error:
        raise Unavailable("aws", operation, "it does not answer in time", "Repeat it later") from error
    except (OSError, http.client.HTTPException) as error:
        why = f"its address cannot be reached ({type(error).__name__})"
        raise Unavailable("aws", operation, why, "Check the network that it is in, then repeat") from error
    finally:
        connection.close()
