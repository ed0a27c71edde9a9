"""What Lambda calls in a function's bundle: the handler `ekiben.aws.handler.handle`, with PYTHONPATH=/var/task/_ekiben.

It makes an Ekiben event of whatever came (`ekiben.aws.payloads`), gives it to the function's own `main.handler(event, runtime)`,
and writes two lines about it into the log, from which `Function.deliveries` tells the rest. An event that comes twice is handled
once (see `ekiben.aws.marks`). The platform is where EKIBEN_PLATFORM says: a path is best, as Lambda's environments hold 4 KB.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import threading
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from ekiben.aws.marks import claim, finish
from ekiben.aws.payloads import event_of, records, unknown_id
from ekiben.errors import EkibenError
from ekiben.records import Event, now
from ekiben.runtime import Runtime, connect

__all__ = ["MARK", "handle"]

# What the lines about deliveries begin with.
MARK = "ekiben-delivery"
# CloudWatch cuts longer lines (256 KB: https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/cloudwatch_limits_cwl.html).
LINE_BYTES = 200_000
# Before Lambda ends the process: enough to print a line, even where the handler computes.
LAST_WORD_S = 0.5


def handle(payload: Any, context: Any) -> Any:
    """Call the function's handler. What it raises is raised: Lambda then tries an asynchronous event again.

    Of a batch (`Records`, as SQS and S3's own notifications send them) every record is handled, whatever the others do. SQS is
    told which have failed; of others the first error is raised, and what is done already is not done again.
    """
    request = str(getattr(context, "aws_request_id", ""))
    if isinstance(payload, Mapping) and isinstance(payload.get("Records"), list):
        return _batch(payload, context, request)
    return _one(payload, context, request)


def _batch(payload: Mapping[str, Any], context: Any, request: str) -> dict[str, Any]:
    failed: set[str] = set()
    errors: list[Exception] = []
    for message, part in records(payload):
        try:
            # A message that comes again does so in another request.
            _one(part, context, message or request, str(payload.get("turn", "")))
        except Exception as error:
            if message:
                traceback.print_exception(error)
                failed.add(message)
            else:
                errors.append(error)
    if errors:
        raise errors[0]
    return {"batchItemFailures": [{"itemIdentifier": message} for message in sorted(failed)]}


def _one(payload: Any, context: Any, request: str, turn: str = "") -> Any:
    runtime = connect()
    turn = str(payload.get("turn", turn)) if isinstance(payload, Mapping) else turn
    said: dict[str, Any] = {"turn": turn, "request": request}
    try:
        if _adopted(payload, runtime) or (event := event_of(payload, runtime)) is None:
            return None
        said["id"] = event.id
        # A call is made once, by somebody who waits for the answer.
        once = event.type != "Http"
        mine = not once or claim(event.id, request, turn)
    except BaseException as error:
        _tell({"id": unknown_id(payload), **said, "state": "failed", "error": _line(error)})
        raise
    if not mine:
        _tell({**said, "state": "again"})
        return None
    _tell({**said, "state": "running", **_short(event)})
    try:
        with _last_word(context, said):
            result = importlib.import_module("main").handler(event, runtime)
        text = json.dumps({"result": result}, allow_nan=False)
    except BaseException as error:  # SystemExit, too: whatever ends the handler ends one delivery
        _tell({**said, "state": "failed", "error": _line(error)})
        raise
    _tell({**said, "state": "done"})
    if once:
        try:
            finish(event.id, request, turn)
        except EkibenError as error:  # to fail now would do again what is done
            print(f"It is not marked as done: {error}", flush=True)
    if "requestContext" in payload:
        return {"statusCode": 200, "headers": {"content-type": "application/json"}, "body": text}
    return json.loads(text)


def _adopted(payload: Any, runtime: Runtime) -> bool:
    """Is it that somebody decided in SageMaker? Then the registry takes it over, and publishes it."""
    if not isinstance(payload, Mapping) or payload.get("source") != "aws.sagemaker":
        return False
    group = str(payload.get("detail", {}).get("ModelPackageGroupName", ""))
    if group:
        _decided(runtime, group)
    return bool(group)


def _decided(runtime: Runtime, group: str) -> None:
    from ekiben.aws.registry import Registry

    for name in runtime.names("registry"):
        registry = runtime.registry(name)
        if isinstance(registry, Registry) and (model := registry.model_of(group)):
            registry.adopt(model)


@contextlib.contextmanager
def _last_word(context: Any, said: Mapping[str, Any]) -> Iterator[None]:
    """Tells that time is out shortly before Lambda ends the process: afterwards nobody can."""
    left_ms = getattr(context, "get_remaining_time_in_millis", None)
    if left_ms is None:
        yield
        return
    word = {**said, "state": "failed", "error": "it ran out of time"}
    alarm = threading.Timer(max(left_ms() / 1000 - LAST_WORD_S, 0.0), _tell, [word])
    alarm.daemon = True
    alarm.start()
    try:
        yield
    finally:
        alarm.cancel()


def _short(event: Event) -> dict[str, Any]:
    """What the log has of an event: all, but for one that would not fit into a line of it."""
    told = event.to_dict()
    if len(json.dumps(told)) <= LINE_BYTES:
        return {"event": told}
    return {"event": {**told, "data": {}}, "cut": True}


def _tell(said: Mapping[str, Any]) -> None:
    # Half a pair of UTF-16, which JSON may carry, is no text that can be printed; escaped it is the same JSON.
    text = json.dumps({**said, "at": now()}, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
    print(MARK, text, flush=True)


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:1000] if text else type(error).__name__
