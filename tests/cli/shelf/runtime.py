"""The run face of `shelf`. `STATE` is its whole world; a test puts an error under "raise" to have it raised."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ekiben import runtime
from ekiben.errors import AlreadyExists, ModelFailed, NotFound, SpecError
from ekiben.records import Decision, Prediction, Revision, RevisionMetrics, Run, now

STATE: dict[str, Any] = {}


def reset() -> None:
    STATE.clear()
    STATE.update(
        objects={},
        versions=[],
        audit=[],
        runs=[],
        revisions=[],
        predictions=[],
        deliveries=[],
        events=[],
        lines=["one", "two"],
        end="succeeded",
    )


def publish(event: Any, platform: Any) -> None:
    STATE["events"].append(event)


def _fail(kind: str) -> None:
    if error := STATE.get("raise", {}).get(kind):
        raise error


class Storage(runtime.Storage):
    def uri(self, key: str = "") -> str:
        return f"shelf://{self.part.name}/{key}"

    def key(self, uri: str) -> str:
        return uri.removeprefix(f"shelf://{self.part.name}/")

    def get(self, key: str) -> bytes:
        return STATE["objects"][key]

    def head(self, key: str) -> runtime.Object:
        return runtime.Object(key, len(self.get(key)), "1", now())

    def put(self, key: str, data: bytes | Path) -> runtime.Object:
        _fail("storage")
        STATE["objects"][key] = data.read_bytes() if isinstance(data, Path) else data
        return self.head(key)

    def put_if_absent(self, key: str, data: bytes | Path) -> runtime.Object:
        if key in STATE["objects"]:
            raise AlreadyExists("shelf", f"write {key!r}", "it is there")
        return self.put(key, data)

    def put_if_match(self, key: str, data: bytes, etag: str) -> runtime.Object:
        return self.put(key, data)

    def list(self, prefix: str = "") -> Any:
        _fail("storage")
        return iter([self.head(key) for key in sorted(STATE["objects"]) if key.startswith(prefix)])

    def copy(self, source: str, target: str) -> None:
        STATE["objects"][target] = STATE["objects"][source]

    def delete(self, key: str) -> None:
        STATE["objects"].pop(key, None)

    def download(self, key: str, path: Path) -> None:
        path.write_bytes(self.get(key))


class Registry(runtime.Registry):
    def register(self, version: Any) -> Any:
        STATE["versions"].insert(0, version)
        return version

    def version(self, ref: str) -> Any:
        _fail("registry")
        for version in STATE["versions"]:
            if ref == version.id or ref in [f"{version.model}@{alias}" for alias in version.aliases]:
                return version
        there = ", ".join(version.id for version in STATE["versions"]) or "none"
        raise NotFound("shelf", f"find the version {ref!r}", f"there is {there}")

    def versions(self, model: str = "") -> list[Any]:
        _fail("registry")
        return [version for version in STATE["versions"] if model in ("", version.model)]

    def decide(self, ref: str, state: str, *, who: str, why: str) -> Any:
        return self._change(self.version(ref), "decide", who, why, state=state)

    def alias(self, ref: str, alias: str, *, who: str, why: str) -> Any:
        for version in STATE["versions"]:
            if alias in version.aliases:
                version.aliases.remove(alias)
        version = self.version(ref)
        return self._change(version, "alias", who, why, aliases=[*version.aliases, alias])

    def audit(self, model: str) -> list[Decision]:
        return [decision for decision in STATE["audit"] if decision.model == model]

    def _change(self, version: Any, what: str, who: str, why: str, **changes: Any) -> Any:
        changed = replace(version, **changes)
        STATE["versions"][STATE["versions"].index(version)] = changed
        decision = Decision(
            seq=len(STATE["audit"]) + 1, model=version.model, version=version.version, what=what, who=who, when=now(), why=why,
            before=version.state, after=changed.state,
        )  # fmt: skip
        STATE["audit"].append(decision)
        return changed


class Training(runtime.Training):
    def submit(self, job: Any) -> Run:
        _fail("training")
        for run in STATE["runs"]:
            if run.id == job.id:
                return run
        run = Run(id=job.id, training=self.part.name, state="running", submitted_at=now(), params=job.params)
        STATE["runs"].insert(0, run)
        STATE["job"] = job
        return run

    def run(self, id: str) -> Run:
        for run in self.runs():
            if run.id == id:
                return run
        raise NotFound("shelf", f"find the run {id!r}", "there is none")

    def runs(self) -> list[Run]:
        _fail("training")
        return [run for run in STATE["runs"] if run.training == self.part.name]

    def logs(self, id: str, *, follow: bool = False) -> Any:
        run = self.run(id)
        yield from STATE["lines"]
        if follow and STATE["end"] == "interrupted":
            raise KeyboardInterrupt
        if follow:
            reason = "the data is bad" if STATE["end"] == "failed" else ""
            self._end(replace(run, state=STATE["end"], reason=reason, ended_at=now(), metrics={"auc": 0.91}))

    def cancel(self, id: str) -> Run:
        return self._end(replace(self.run(id), state="cancelled", reason="cancelled by the user", ended_at=now()))

    def _end(self, run: Run) -> Run:
        STATE["runs"] = [run if other.id == run.id else other for other in STATE["runs"]]
        return run


class Endpoint(runtime.Endpoint):
    def deploy(self, version: Any, *, tag: str = "") -> Revision:
        for revision in STATE["revisions"]:
            if revision.version == version.id:
                return revision
        revision = Revision(
            id=f"v{version.version}-{version.digest[:8]}", endpoint=self.part.name, version=version.id, digest=version.digest,
            state="ready", tag=tag, created_at=now(),
        )  # fmt: skip
        STATE["revisions"].insert(0, revision)
        return revision

    def revisions(self) -> list[Revision]:
        _fail("endpoint")
        return list(STATE["revisions"])

    def shift(self, weights: Any) -> list[Revision]:
        STATE["revisions"] = [replace(r, weight=float(weights.get(r.id, 0.0))) for r in STATE["revisions"]]
        return self.revisions()

    def retire(self, revision: str) -> None:
        STATE["revisions"] = [r for r in STATE["revisions"] if r.id != revision]

    def invoke(self, payload: Any, *, route: str = "predict", revision: str = "") -> Prediction:
        _fail("endpoint")
        if payload == {"bad": True}:
            raise SpecError("The model refuses the payload: age is missing.")
        if payload == {"crash": True}:
            raise ModelFailed("The model failed.", tail="ZeroDivisionError", log_uri="shelf://log")
        return Prediction(
            endpoint=self.part.name, revision=revision or "v1-abc", body={"echo": payload}, latency_ms=1.25, cold=True
        )

    def metrics(self) -> list[RevisionMetrics]:
        return [RevisionMetrics(revision=revision.id, requests=7, errors=1) for revision in STATE["revisions"]]

    def predictions(self, last: int = 100) -> list[Any]:
        return list(STATE["predictions"][:last])


class Function(runtime.Function):
    def call(self, data: Any) -> Any:
        return {"called": data}

    def deliveries(self, state: str = "") -> list[dict[str, Any]]:
        return [d for d in STATE["deliveries"] if state in ("", d["state"])]

    def replay(self, delivery: str) -> None:
        for entry in STATE["deliveries"]:
            if entry["id"] == delivery:
                entry["state"] = "waiting"
                return
        raise NotFound("shelf", f"replay {delivery!r}", "there is no such delivery")

    def logs(self) -> Any:
        return iter(["said so"])
