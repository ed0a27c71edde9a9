"""What AWS calls a function with, as Ekiben's events: from EventBridge, Scheduler, a function URL, S3's own notifications, and
`Function.call`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote_plus

from ekiben.errors import NotFound, SpecError
from ekiben.keys import is_data
from ekiben.records import Event, Platform, now
from ekiben.runtime import Runtime

__all__ = ["event_of", "of_call", "records", "unknown_id"]

ENDED = ("Completed", "Failed", "Stopped")


def of_call(event: Event) -> dict[str, Any]:
    """The payload that calls a function with an event."""
    return {"ekiben": event.to_dict()}


def event_of(payload: Any, runtime: Runtime) -> Event | None:
    """The event that a payload is about; None for one that concerns nobody here.

    Raises SpecError for what has not the shape of its kind, NotFound for what is of no kind that is known.
    """
    try:
        return _event(payload, runtime)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        raise SpecError(f"aws: cannot handle an event: it has not the shape of its kind ({why}).") from error


def records(payload: Mapping[str, Any], message: str = "") -> Iterator[tuple[str, Any]]:
    """(the message's id, what is in it) of a batch: of SQS's messages what their text says, of others the records themselves."""
    for record in payload["Records"]:
        if not isinstance(record, Mapping) or record.get("eventSource") != "aws:sqs":
            yield message, record
            continue
        inside, body = str(record.get("messageId", "")), record.get("body")
        with contextlib.suppress(ValueError):  # whoever takes it for an event finds that it is none
            body = json.loads(str(body))
        if isinstance(body, Mapping) and isinstance(body.get("Records"), list):
            yield from records(body, inside)
        else:
            yield inside, body


def unknown_id(payload: Any) -> str:
    """What a payload is called that is no event."""
    plain = {key: value for key, value in payload.items() if key != "turn"} if isinstance(payload, Mapping) else payload
    return f"unknown-{_digest(json.dumps(plain, sort_keys=True))}"


def _event(payload: Mapping[str, Any], runtime: Runtime) -> Event | None:
    if "ekiben" in payload:
        return Event.from_dict(payload["ekiben"])
    if "requestContext" in payload:
        return _of_url(payload)
    if payload.get("eventSource") == "aws:s3":
        return _noticed(runtime.platform, payload)
    source, detail = payload.get("source"), payload.get("detail", {})
    if source == "aws.s3":
        return _landed(runtime.platform, payload, detail)
    if source == "aws.sagemaker" and "TrainingJobName" in detail:
        return _trained(runtime, payload, detail)
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


def _noticed(platform: Platform, record: Mapping[str, Any]) -> Event | None:
    """Of a notification of S3's own, whose keys are quoted as the fields of a form are."""
    if not str(record["eventName"]).startswith("ObjectCreated:"):
        return None
    found = record["s3"]["object"]
    there = {**found, "key": unquote_plus(str(found["key"])), "etag": found.get("eTag", "")}
    return _landed(platform, {"time": record.get("eventTime", "")}, {"bucket": record["s3"]["bucket"], "object": there})


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


def _digest(*words: str) -> str:
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:32]
