"""Endpoints on Lambda: a revision is a published version, its environment names the bento; traffic is the weights of an alias.

A version's description says which revision it is, so nothing has to be kept beside what Lambda itself keeps.
"""

from __future__ import annotations

import base64
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from ekiben import runtime
from ekiben.aws.client import Cloud
from ekiben.aws.facts import EndpointFacts, facts_of
from ekiben.aws.lambdas import Answer, Lambda, said_of
from ekiben.aws.measures import LAMBDA, measured
from ekiben.aws.storage import open_storage
from ekiben.bentos import VERSION_VARIABLES, check_bytes, environment, last_predictions
from ekiben.errors import (
    ModelFailed,
    NotFound,
    SpecError,
    Unavailable,
    Unsupported,
)
from ekiben.invocations import as_json, parsed, refusal
from ekiben.records import (
    LoggedPrediction,
    ModelVersion,
    Part,
    Platform,
    Prediction,
    Revision,
    RevisionMetrics,
    RevisionState,
    now,
)
from ekiben.revisions import check_tag, check_weights, revision_id

__all__ = ["REVISION_VARIABLES", "Endpoint"]

# What a deployment says in the function's environment, and the program therefore leaves alone.
DEPLOYED_AT = "EKIBEN_DEPLOYED_AT"
REVISION_VARIABLES = (*VERSION_VARIABLES, DEPLOYED_AT)

DESCRIBED = re.compile(r"(v\d+-[0-9a-f]{8}) (\S+:\d+) ([0-9a-f]{64})")
TAG_PREFIX = "tag-"
READY = "/readyz"
# Lambda takes shares of up to six decimals.
SHARE_DECIMALS = 6
TAIL_LINES = 20


class Endpoint(runtime.Endpoint):
    """The published versions of one function that Ekiben made, and the alias that the traffic goes to."""

    def __init__(self, part: Part, platform: Platform) -> None:
        super().__init__(part, platform)
        self._facts = facts_of(part, EndpointFacts)
        self._cloud = Cloud(self._facts.region)
        self._function = Lambda(self._cloud, self._facts.function)
        self._storage = open_storage(self._facts.storage_uri, self._facts.region)
        self._known: dict[str, str] = {}

    def deploy(self, version: ModelVersion, *, tag: str = "") -> Revision:
        """See `runtime.Endpoint`. A revision that does not start is gone again when this raises."""
        id = revision_id(version)
        operation = f"deploy {version.id} on {self.part.name!r}"
        if tag:
            check_tag(tag)
        there = next((one for one in self.revisions() if one.id == id), None)
        if there is not None and there.state == "failed":
            self.retire(id)
            there = None
        if there is None:
            check_bytes(self._storage, version, operation)
            # Without a difference to the last version, also one that is gone, Lambda publishes nothing: that is the time.
            variables = {**environment(version), DEPLOYED_AT: now()}
            mine = self._function.publish(operation, f"{id} {version.id} {version.digest}", variables)
            # Of two at once that made one each the first is the revision; each takes back its own.
            if (first := self._numbers(operation).get(id, [mine])[0]) != mine:
                self._function.delete(operation, mine)
        else:
            first = self._numbers(operation).get(id, [""])[0]
        if there is None or not there.weight:
            self._start(version, first, operation)
        if tag:
            self._function.point(operation, TAG_PREFIX + tag, first)
        return next(revision for revision in self.revisions() if revision.id == id)

    def revisions(self) -> list[Revision]:
        """See `runtime.Endpoint`. How many instances run, Lambda does not say: that is 0."""
        operation = f"list the revisions of {self.part.name!r}"
        aliases = self._function.aliases(operation)
        weights = aliases.get(self._facts.alias, {})
        tagged = {name.removeprefix(TAG_PREFIX): at for name, at in aliases.items() if name.startswith(TAG_PREFIX)}
        tags = {number: tag for tag, at in tagged.items() for number in at}
        found: dict[str, Revision] = {}
        for one in sorted(self._function.versions(operation), key=lambda one: int(one["Version"])):
            if not (said := DESCRIBED.fullmatch(one.get("Description", ""))):
                continue
            number, weight = one["Version"], round(100 * weights.get(one["Version"], 0.0), 6)
            self._known[number] = said[1]
            if said[1] in found:
                found[said[1]] = replace(found[said[1]], weight=found[said[1]].weight + weight)
                continue
            found[said[1]] = Revision(
                id=said[1], endpoint=self.part.name, version=said[2], digest=said[3], state=_state(one), weight=weight,
                tag=tags.get(number, ""), reason=str(one.get("StateReason", "")), created_at=_time(one.get("LastModified", "")),
            )  # fmt: skip
        return list(reversed(found.values()))

    def shift(self, weights: Mapping[str, float]) -> list[Revision]:
        """See `runtime.Endpoint`. Instances are started before they get traffic, and not kept after.

        Raises Unsupported for more than two revisions with traffic, NoCapacity where instances are not started.
        """
        operation = f"shift the traffic of {self.part.name!r}"
        check_weights("aws", self.part.name, weights, {one.id: one.state for one in self.revisions()})
        given = sorted(((weight, id) for id, weight in weights.items() if weight), reverse=True)
        if len(given) > 2:
            raise Unsupported(
                f"Endpoint {self.part.name!r}: an alias of Lambda splits its traffic between two versions at most, not "
                f"{len(given)}. Shift it in steps of two."
            )
        numbers = self._numbers(operation)
        (_, first), rest = given[0], given[1:]
        others = {numbers[id][0]: round(weight / 100, SHARE_DECIMALS) for weight, id in rest}
        # Of the versions, not of the alias: Lambda starts none for an alias that splits its traffic.
        started = {numbers[id][0]: math.ceil(self._facts.provisioned * weight / 100) for weight, id in given}
        if self._facts.provisioned:
            self._function.provision(operation, started)
        self._function.point(operation, self._facts.alias, numbers[first][0], others)
        self._function.release(operation, started if self._facts.provisioned else ())
        return self.revisions()

    def retire(self, revision: str) -> None:
        """See `runtime.Endpoint`. Calls that run on it are not cut off: Lambda lets them end."""
        operation = f"retire {revision!r} of {self.part.name!r}"
        numbers = self._numbers(operation).get(revision, [])
        aliases = self._function.aliases(operation)
        if weight := sum(aliases.get(self._facts.alias, {}).get(number, 0.0) for number in numbers):
            raise SpecError(
                f"The revision {revision} of {self.part.name!r} has {100 * weight:g} % of the traffic: shift it to another "
                "one first."
            )
        for name, at in aliases.items():
            if name.startswith(TAG_PREFIX) and set(at) & set(numbers):
                self._function.unpoint(operation, name)
        for number in numbers:
            self._function.delete(operation, number)

    def invoke(self, payload: Any, *, route: str = "predict", revision: str = "") -> Prediction:
        name, operation = self.part.name, f"call the endpoint {self.part.name!r}"
        body = as_json(payload, "The payload")
        qualifier = self._qualifier(revision, operation) if revision else self._facts.alias
        began = time.perf_counter()
        try:
            answer = self._function.invoke(operation, _request("POST", f"/{quote(route.lstrip('/'))}", body), qualifier)
        except NotFound as error:
            raise self._unreleased(operation) from error
        latency_ms = (time.perf_counter() - began) * 1000
        if answer.version not in self._known:
            self.revisions()
        if answer.version not in self._known:
            raise self._unreleased(operation)
        if answer.failed:
            raise ModelFailed(
                f"aws: the model behind {name!r} failed at {route!r}: {said_of(answer)}",
                tail=_tail(answer),
                log_uri=self._log_uri,
            )
        status, headers, said = _response(answer.payload)
        if status >= 400:
            raise refusal("aws", name, route, status, said)
        return Prediction(
            endpoint=name, revision=self._known[answer.version], body=parsed("aws", name, route, said), latency_ms=latency_ms,
            cold=answer.cold, id=headers.get("x-request-id", answer.request_id),
        )  # fmt: skip

    def metrics(self) -> list[RevisionMetrics]:
        """See `runtime.Endpoint`. From CloudWatch, some minutes late; errors are those that Lambda counts as failed calls."""
        operation = f"measure {self.part.name!r}"
        numbers = self._numbers(operation)
        found = []
        for revision in self.revisions():
            which = {"FunctionName": self._facts.function, "ExecutedVersion": numbers[revision.id][0]}
            where = [
                {**which, "Resource": f"{self._facts.function}:{self._facts.alias}"},
                {"FunctionName": self._facts.function, "Resource": f"{self._facts.function}:{numbers[revision.id][0]}"},
            ]
            found.append(measured(self._cloud, operation, revision.id, revision.created_at, where, LAMBDA))
        return found

    def predictions(self, last: int = 100) -> list[LoggedPrediction]:
        return last_predictions(self._storage, self.part.name, last)

    def _numbers(self, operation: str) -> dict[str, list[str]]:
        """Revision id -> its versions, the first made first: nearly always one."""
        found: dict[str, list[str]] = {}
        for one in sorted(self._function.versions(operation), key=lambda one: int(one["Version"])):
            if said := DESCRIBED.fullmatch(one.get("Description", "")):
                found.setdefault(said[1], []).append(one["Version"])
        return found

    def _qualifier(self, revision: str, operation: str) -> str:
        """What Lambda calls the revision with this id or tag. Raises NotFound."""
        numbers = self._numbers(operation)
        if revision in numbers:
            return numbers[revision][0]
        if f"{TAG_PREFIX}{revision}" in self._function.aliases(operation):
            return TAG_PREFIX + revision
        there = ", ".join(numbers) or "none"
        raise NotFound("aws", operation, f"there is no revision {revision!r}; there is: {there}")

    def _start(self, version: ModelVersion, number: str, operation: str) -> None:
        """Wait until the version answers, as the first request would. Raises ModelFailed, and the version is gone."""
        try:
            answer = self._function.invoke(operation, _request("GET", READY), number)
        except NotFound as error:
            raise Unavailable("aws", operation, "somebody has retired it meanwhile", "Repeat it") from error
        status, _, said = _response(answer.payload) if not answer.failed else (500, {}, b"")
        if status < 400:
            return
        self._function.delete(operation, number)
        why = (
            said_of(answer)
            if answer.failed
            else f"it is not ready (HTTP {status}): {said[:500].decode('utf-8', 'replace')}"
        )
        raise ModelFailed(f"aws: {version.id} does not start: {why}", tail=_tail(answer), log_uri=self._log_uri)

    def _unreleased(self, operation: str) -> Unavailable:
        return Unavailable(
            "aws", operation, "no revision of it has traffic", "Release a model with: ekiben release MODEL:VERSION"
        )

    @property
    def _log_uri(self) -> str:
        return f"cloudwatch:{self._facts.region}:{self._facts.log_group}"


def _request(method: str, path: str, body: str = "") -> dict[str, Any]:
    """An HTTP request as an event, in the format (2.0) in which function URLs send one, and which the web adapter reads."""
    return {
        "version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": "",
        "headers": {"content-type": "application/json", "content-length": str(len(body.encode())), "host": "lambda"},
        "requestContext": {
            "accountId": "anonymous", "apiId": "ekiben", "domainName": "lambda", "domainPrefix": "lambda", "requestId": "ekiben",
            "routeKey": "$default", "stage": "$default", "time": "01/Jan/1970:00:00:00 +0000", "timeEpoch": 0,
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "ekiben"},
        },
        "body": body, "isBase64Encoded": False,
    }  # fmt: skip


def _response(payload: bytes) -> tuple[int, dict[str, str], bytes]:
    """The HTTP answer in what the function returned: status, headers (names in lower case), body."""
    try:
        said = json.loads(payload)
        body = said.get("body") or ""
        data = base64.b64decode(body) if said.get("isBase64Encoded") else body.encode()
        headers = {str(name).lower(): str(value) for name, value in (said.get("headers") or {}).items()}
        return int(said["statusCode"]), headers, data
    except (ValueError, KeyError, TypeError, AttributeError):
        # No web adapter answers here.
        return 502, {}, payload[:500]


def _tail(answer: Answer) -> str:
    return "\n".join(answer.tail.splitlines()[-TAIL_LINES:])


def _state(version: Mapping[str, Any]) -> RevisionState:
    found: RevisionState = {"Pending": "starting", "Failed": "failed"}.get(version.get("State", ""), "ready")  # type: ignore[assignment]
    return found


def _time(text: str) -> str:
    """Lambda's "2026-11-22T09:00:00.000+0000" as RFC 3339 in UTC."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return text
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
