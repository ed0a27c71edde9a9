"""What Lambda calls in a function's bundle: the handler `ekiben.aws.handler.handle`, with PYTHONPATH=/var/task/_ekiben.

It makes an Ekiben event of whatever came (EventBridge, Scheduler, a function URL, `Function.call`), gives it to the function's own
`main.handler(event, runtime)`, and writes two lines about it into the log, from which `Function.deliveries` tells the rest.
The platform is where EKIBEN_PLATFORM says; a path is best, for Lambda's environments hold 4 KB.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from ekiben.errors import NotFound
from ekiben.keys import is_data
from ekiben.records import Event, Platform, now
from ekiben.runtime import Runtime, connect

__all__ = ["MARK", "handle", "of_call"]

# What the lines about deliveries begin with.
MARK = "ekiben-delivery"
ENDED = ("Completed", "Failed", "Stopped")


def of_call(event: Event, turn: str = "") -> dict[str, Any]:
    """The payload that calls a function with an event. turn: tells one replay of it from the deliveries before."""
    return {"ekiben": event.to_dict(), "turn": turn}


def handle(payload: Any, context: Any) -> Any:
    """Call the function's handler. What it raises is raised: Lambda then tries an asynchronous event again."""
    runtime = connect()
    event = _event(payload, runtime)
    if event is None:
        return None
    said = {
        "id": event.id,
        "turn": str(payload.get("turn", "")),
        "request": str(getattr(context, "aws_request_id", "")),
    }
    _tell({**said, "state": "running", "event": event.to_dict(), "at": now()})
    try:
        result = importlib.import_module("main").handler(event, runtime)
        text = json.dumps({"result": result}, allow_nan=False)
    except BaseException as error:  # SystemExit, too: whatever ends the handler ends one delivery
        _tell({**said, "state": "failed", "error": _line(error), "at": now()})
        raise
    _tell({**said, "state": "done", "at": now()})
    if "requestContext" in payload:
        return {"statusCode": 200, "headers": {"content-type": "application/json"}, "body": text}
    return json.loads(text)


def _event(payload: Mapping[str, Any], runtime: Runtime) -> Event | None:
    """The event that came; None for one that concerns nobody here."""
    if "ekiben" in payload:
        return Event.from_dict(payload["ekiben"])
    if "requestContext" in payload:
        return _of_url(payload)
    source, detail = payload.get("source"), payload.get("detail", {})
    if source == "aws.s3":
        return _landed(runtime.platform, payload, detail)
    if source == "aws.sagemaker" and "TrainingJobName" in detail:
        return _trained(runtime, payload, detail)
    if source == "aws.sagemaker" and "ModelPackageGroupName" in detail:
        _decided(runtime, str(detail["ModelPackageGroupName"]))
        return None
    if source == "ekiben":
        return Event.from_dict(detail)
    # The words of a schedule's target: {"schedule": ..., "zone": ..., "due": <aws.scheduler.scheduled-time>}.
    if "schedule" in payload:
        name, due = str(payload.get("function", "")), str(payload["due"])
        return Event(
            id=f"schedule-{_digest('Schedule', name, str(payload['schedule']), str(payload.get('zone', '')), due)}",
            type="Schedule", source=name, subject=str(payload["schedule"]), time=now(),
            data={"due": due, "zone": str(payload.get("zone", "UTC"))},
        )  # fmt: skip
    raise NotFound("aws", "handle an event", f"nothing is known of its kind: {sorted(payload)}")


def _of_url(payload: Mapping[str, Any]) -> Event:
    body = payload.get("body") or "{}"
    data = json.loads(base64.b64decode(body) if payload.get("isBase64Encoded") else body)
    id = payload["requestContext"].get("requestId") or uuid.uuid4().hex
    return Event(
        id=f"http-{id}", type="Http", source="url", time=now(), data=data if isinstance(data, dict) else {"body": data}
    )


def _landed(platform: Platform, payload: Mapping[str, Any], detail: Mapping[str, Any]) -> Event | None:
    """A new object, of the storage component whose bucket it is in. What Ekiben itself writes is none."""
    bucket, found = detail["bucket"]["name"], detail["object"]
    key, etag = str(found["key"]), str(found.get("etag", ""))
    if not is_data(key):
        return None
    storage = next(_storages(platform, bucket), bucket)
    return Event(
        id=f"newdata-{_digest('NewData', storage, key, etag, str(found.get('sequencer', '')))}", type="NewData",
        source=storage, subject=key, time=str(payload.get("time", "")),
        data={"uri": f"s3://{bucket}/{key}", "etag": etag, "bytes": int(found.get("size", 0))},
    )  # fmt: skip


def _storages(platform: Platform, bucket: str) -> Iterator[str]:
    for name, part in sorted(platform.parts.items()):
        if part.kind == "storage" and str(part.facts.get("uri", "")).rstrip("/") == f"s3://{bucket}":
            yield name


def _trained(runtime: Runtime, payload: Mapping[str, Any], detail: Mapping[str, Any]) -> Event | None:
    """A training job has ended: of which training's run, its name says to those that the platform has."""
    if detail.get("TrainingJobStatus") not in ENDED:
        return None
    from ekiben.aws.training import Training

    for name in runtime.names("training"):
        training = runtime.training(name)
        if isinstance(training, Training) and (run := training.of_job(str(detail["TrainingJobName"]))):
            return Event(
                id=f"training-ended-{run.id}", type="TrainingEnded", source=name, subject=run.id, time=run.ended_at,
                data={"state": run.state, "reason": run.reason},
            )  # fmt: skip
    return None


def _decided(runtime: Runtime, group: str) -> None:
    """Somebody decided in SageMaker: the registry takes it over, and publishes it."""
    from ekiben.aws.registry import Registry

    for name in runtime.names("registry"):
        registry = runtime.registry(name)
        if isinstance(registry, Registry) and (model := registry.model_of(group)):
            registry.adopt(model)


def _digest(*words: str) -> str:
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:32]


def _tell(said: Mapping[str, Any]) -> None:
    print(MARK, json.dumps(said, ensure_ascii=False), flush=True)


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:1000] if text else type(error).__name__
