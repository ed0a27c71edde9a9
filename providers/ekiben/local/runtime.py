"""The run face of `local`: storage and registry are folders; training, endpoints and functions are calls to the station."""

from __future__ import annotations

import codecs
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from ekiben import predictions, runtime
from ekiben.errors import EkibenError, ModelFailed, NotFound, SpecError, Unavailable
from ekiben.records import (
    Decision,
    Event,
    Job,
    LoggedPrediction,
    ModelVersion,
    Part,
    Platform,
    Prediction,
    Revision,
    RevisionMetrics,
    Run,
)
from ekiben.registry import ObjectRegistry
from ekiben.station.client import Client
from ekiben.station.wire import from_body
from ekiben.storage import Storage, open_storage

__all__ = ["Endpoint", "Function", "Registry", "Storage", "Training", "publish"]

# Longer than the longest that a spec allows: the station ends each of these by the spec's own limit.
DEPLOY_TIMEOUT_S = 1800.0
INVOKE_TIMEOUT_S = 4300.0
CALL_TIMEOUT_S = 1000.0
CANCEL_TIMEOUT_S = 300.0
FOLLOW_PAUSE_S = 0.25


class Registry(runtime.Registry):
    """`ObjectRegistry` in the lake's folder; its decisions are published to the station."""

    def __init__(self, part: Part, platform: Platform) -> None:
        super().__init__(part, platform)
        lake, found, name = str(part.facts.get("uri", "")).rpartition("/registry/")
        if not found:
            raise SpecError(f"The platform's registry {part.name!r} has no URI that ends in /registry/NAME.")
        self._objects = ObjectRegistry(
            open_storage(lake, provider=part.provider),
            f"registry/{name}",
            provider=part.provider,
            source=part.name,
            publish=lambda event: publish(event, platform),
            require_approval=bool(part.facts.get("require_approval", True)),
        )

    def register(self, version: ModelVersion) -> ModelVersion:
        return self._objects.register(version)

    def version(self, ref: str) -> ModelVersion:
        return self._objects.version(ref)

    def versions(self, model: str = "") -> list[ModelVersion]:
        return self._objects.versions(model)

    def decide(self, ref: str, state: str, *, who: str, why: str) -> ModelVersion:
        return self._objects.decide(ref, state, who=who, why=why)

    def alias(self, ref: str, alias: str, *, who: str, why: str) -> ModelVersion:
        return self._objects.alias(ref, alias, who=who, why=why)

    def audit(self, model: str) -> list[Decision]:
        return self._objects.audit(model)


class Training(runtime.Training):
    def submit(self, job: Job) -> Run:
        return Run.from_dict(self._call("POST", "/runs", job.to_dict()))

    def run(self, id: str) -> Run:
        return Run.from_dict(self._call("GET", f"/runs/{quote(id, safe='')}"))

    def runs(self) -> list[Run]:
        return [Run.from_dict(run) for run in self._call("GET", "/runs")["runs"]]

    def logs(self, id: str, *, follow: bool = False) -> Iterator[str]:
        decoder, offset, rest = codecs.getincrementaldecoder("utf-8")("replace"), 0, ""
        while True:
            path = f"/v1/trainings/{self.part.name}/runs/{quote(id, safe='')}/log?offset={offset}"
            answer = _station(self.part).send("GET", path)
            if answer.status >= 400:
                raise from_body(answer.status, answer.json())
            *lines, rest = (rest + decoder.decode(answer.body)).split("\n")
            yield from lines
            offset, before = int(answer.headers.get("ekiben-offset", offset)), offset
            if offset > before:
                continue
            if not follow or answer.headers.get("ekiben-ended") == "1":
                break
            time.sleep(FOLLOW_PAUSE_S)
        if rest := rest + decoder.decode(b"", final=True):
            yield rest

    def cancel(self, id: str) -> Run:
        return Run.from_dict(self._call("POST", f"/runs/{quote(id, safe='')}/cancel", timeout_s=CANCEL_TIMEOUT_S))

    def _call(self, method: str, path: str, body: Any = None, timeout_s: float = 60.0) -> Any:
        return _call(self.part, method, f"/v1/trainings/{self.part.name}{path}", body, timeout_s)


class Endpoint(runtime.Endpoint):
    def deploy(self, version: ModelVersion, *, tag: str = "") -> Revision:
        body = {"version": version.to_dict(), "tag": tag}
        return Revision.from_dict(self._call("POST", "/revisions", body, DEPLOY_TIMEOUT_S))

    def revisions(self) -> list[Revision]:
        return [Revision.from_dict(revision) for revision in self._call("GET", "/revisions")["revisions"]]

    def shift(self, weights: Mapping[str, float]) -> list[Revision]:
        made = self._call("PUT", "/weights", {"weights": dict(weights)})
        return [Revision.from_dict(revision) for revision in made["revisions"]]

    def retire(self, revision: str) -> None:
        self._call("DELETE", f"/revisions/{quote(revision, safe='')}", timeout_s=INVOKE_TIMEOUT_S)

    def invoke(self, payload: Any, *, route: str = "predict", revision: str = "") -> Prediction:
        name = self.part.name
        where = f"{name}@{quote(revision, safe='')}" if revision else name
        body = _json(payload, "The payload").encode()
        began = time.perf_counter()
        answer = _station(self.part).send(
            "POST", f"/endpoints/{where}/{quote(route.lstrip('/'))}", body, timeout_s=INVOKE_TIMEOUT_S
        )
        latency_ms = (time.perf_counter() - began) * 1000
        if answer.status >= 400:
            raise _refusal(name, route, answer.status, answer.json(), answer.body)
        try:
            parsed = json.loads(answer.body) if answer.body else None
        except ValueError as error:
            raise ModelFailed(f"local: the endpoint {name!r} answered {route!r} with what is not JSON.") from error
        return Prediction(
            endpoint=name, revision=answer.headers.get("ekiben-revision", ""), body=parsed, latency_ms=latency_ms,
            cold=answer.headers.get("ekiben-cold") == "1", id=answer.headers.get("ekiben-request-id", ""),
        )  # fmt: skip

    def metrics(self) -> list[RevisionMetrics]:
        return [RevisionMetrics.from_dict(one) for one in self._call("GET", "/metrics")["metrics"]]

    def predictions(self, last: int = 100) -> list[LoggedPrediction]:
        if last < 1:
            return []
        # The station's first: what moves to storage meanwhile is seen twice, and never missed.
        found = {row["id"]: row for row in self._call("GET", f"/predictions?last={last}")["predictions"]}
        rows = {id: LoggedPrediction.from_dict(row) for id, row in found.items()}
        if len(rows) < last and (uri := self.part.facts.get("storage_uri")):
            for row in predictions.recent(open_storage(str(uri), provider="local"), self.part.name):
                rows.setdefault(row.id, row)
                if len(rows) >= last:
                    break
        return list(rows.values())

    def _call(self, method: str, path: str, body: Any = None, timeout_s: float = 60.0) -> Any:
        return _call(self.part, method, f"/v1/endpoints/{self.part.name}{path}", body, timeout_s)


class Function(runtime.Function):
    def call(self, data: Mapping[str, Any]) -> Any:
        return _call(self.part, "POST", f"/functions/{self.part.name}", dict(data), CALL_TIMEOUT_S)["result"]

    def deliveries(self, state: str = "") -> list[dict[str, Any]]:
        found = self._call("GET", f"/deliveries?state={quote(state, safe='')}")["deliveries"]
        return [dict(delivery) for delivery in found]

    def replay(self, delivery: str) -> None:
        self._call("POST", f"/deliveries/{quote(delivery, safe='')}/replay")

    def logs(self) -> Iterator[str]:
        answer = _station(self.part).send("GET", f"/v1/functions/{self.part.name}/log")
        if answer.status >= 400:
            raise from_body(answer.status, answer.json())
        yield from answer.body.decode("utf-8", "replace").splitlines()

    def _call(self, method: str, path: str) -> Any:
        return _call(self.part, method, f"/v1/functions/{self.part.name}{path}")


def publish(event: Event, platform: Platform) -> None:
    """Give an event to the station of this platform. Raises NotFound where the platform has no part that it holds."""
    for part in platform.parts.values():
        if part.provider == "local" and part.facts.get("station"):
            _call(part, "POST", "/v1/events", event.to_dict())
            return
    raise NotFound(
        "local", f"publish {event.type}", "the platform has no part that names its station, such as a registry",
        "Give the function `uses=[...]` one",
    )  # fmt: skip


def _station(part: Part) -> Client:
    state_dir = part.facts.get("station")
    if not state_dir:
        raise SpecError(f"The platform's {part.kind} {part.name!r} does not name its station: run `ekiben up` again.")
    return Client(str(state_dir))


def _call(part: Part, method: str, path: str, body: Any = None, timeout_s: float = 60.0) -> Any:
    if body is not None:
        _json(body, f"What was given to the {part.kind} {part.name!r}")
    return _station(part).request(method, path, body, timeout_s=timeout_s)


def _json(body: Any, what: str) -> str:
    try:
        text = json.dumps(body, allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        shown = repr(body)
        shown = shown if len(shown) <= 200 else shown[:197] + "..."
        raise SpecError(f"{what} cannot be sent as JSON: {error}. It was: {shown}.") from error
    return text


def _refusal(name: str, route: str, status: int, body: Any, raw: bytes) -> EkibenError:
    """The station's own error, or what the model's server said."""
    said = body.get("error") if isinstance(body, dict) else None
    if isinstance(said, dict):
        return from_body(status, body)
    detail = body.get("detail") if isinstance(body, dict) else None
    text = _fields(detail) or str(said or detail or raw[:500].decode("utf-8", "replace"))
    if status == 503:
        return Unavailable("local", f"call the endpoint {name!r}", text.rstrip(".") or "it is busy", "Try again later")
    if status < 500:
        return SpecError(f"local: the model behind {name!r} refuses the call of {route!r} (HTTP {status}): {text}")
    return ModelFailed(f"local: the model behind {name!r} failed at {route!r} (HTTP {status}): {text}")


def _fields(detail: Any) -> str:
    """BentoML's list of what is wrong with a request: the first five fields, each with its place."""
    if not isinstance(detail, list) or not all(isinstance(item, dict) and "msg" in item for item in detail):
        return ""
    told = [": ".join((".".join(map(str, item.get("loc") or ())), str(item["msg"]))) for item in detail[:5]]
    more = f"; and {len(detail) - 5} more" if len(detail) > 5 else ""
    return "; ".join(text.removeprefix(": ") for text in told) + more
