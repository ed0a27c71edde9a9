"""The run face of `local`: storage and registry are folders; training, endpoints and functions are calls to the station."""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from ekiben import predictions, runtime
from ekiben.errors import EkibenError, NotFound, SpecError
from ekiben.invocations import as_json, parsed, refusal
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
        body = as_json(payload, "The payload").encode()
        began = time.perf_counter()
        answer = _station(self.part).send(
            "POST", f"/endpoints/{where}/{quote(route.lstrip('/'))}", body, timeout_s=INVOKE_TIMEOUT_S
        )
        latency_ms = (time.perf_counter() - began) * 1000
        if answer.status >= 400:
            raise _refusal(name, route, answer.status, answer.json(), answer.body)
        said = parsed("local", name, route, answer.body)
        return Prediction(
            endpoint=name, revision=answer.headers.get("ekiben-revision", ""), body=said, latency_ms=latency_ms,
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
        as_json(body, f"What was given to the {part.kind} {part.name!r}")
    return _station(part).request(method, path, body, timeout_s=timeout_s)


def _refusal(name: str, route: str, status: int, body: Any, raw: bytes) -> EkibenError:
    """The station's own error, or what the model's server said."""
    said = body.get("error") if isinstance(body, dict) else None
    return from_body(status, body) if isinstance(said, dict) else refusal("local", name, route, status, raw)
