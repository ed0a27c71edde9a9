"""At least once, and what that means for a handler: duplicates, batches, poison, time-outs, dead letters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ekiben as ek
from ekiben import packing
from ekiben.aws import marks
from ekiben.aws.function import Function
from ekiben.aws.handler import LINE_BYTES, MARK
from tests.fakes.aws import Edge, Ran

from .conftest import REGION, platform
from .test_endpoint import function as function  # noqa: PLC0414

MAIN = """
import os, time
def handler(event, runtime):
    print("HANDLED", event.id, event.subject, flush=True)
    if "slow_s" in event.data:
        time.sleep(event.data["slow_s"])
        os._exit(7)
    if "fail" in event.data:
        raise ValueError(event.data["fail"])
    return event.subject
"""
# Each call as Lambda makes it; `left_ms` is what is left of the function's time.
RUN = """
import json, sys
from types import SimpleNamespace
from ekiben.aws.handler import handle
for payload, request, left_ms in json.load(open(sys.argv[1])):
    context = SimpleNamespace(aws_request_id=request)
    if left_ms:
        context.get_remaining_time_in_millis = lambda: left_ms
    try:
        said = handle(payload, context)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    print("SAID", json.dumps(said), flush=True)
"""
Calls = Callable[..., tuple[list[Any], list[str], list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("function")
    (folder / "source").mkdir()
    (folder / "source" / "main.py").write_text(MAIN)
    made = packing.function_bundle(folder / "source", "aws")
    return Path(packing.unpack(made.path, made.sha256, folder / "task"))


@pytest.fixture
def place(bucket: str) -> str:
    return f"s3://{bucket}/deliveries/retrain"


@pytest.fixture
def calls(root: Path, tmp_path: Path, bucket: str, place: str, aws: str, edge: Edge) -> Calls:
    """Call the handler with (payload, request, milliseconds left) one after another: what was said, handled and told."""
    lake = ek.Part(
        name="lake", kind="storage", provider="aws", ref="", facts={"region": REGION, "uri": f"s3://{bucket}"}
    )
    (tmp_path / "platform.json").write_text(platform(lake).to_json())

    def run(
        *calls: tuple[Any, str] | tuple[Any, str, int], place: str = place
    ) -> tuple[list[Any], list[str], list[dict[str, Any]]]:
        asked = tmp_path / "calls.json"
        asked.write_text(json.dumps([[*call, 0][:3] for call in calls]))
        env = {
            "PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join((str(root), str(root / "_ekiben"))),
            "AWS_ENDPOINT_URL": aws, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": REGION,
            "AWS_ALLOW_HTTP": "true", "EKIBEN_PLATFORM": str(tmp_path / "platform.json"), marks.PLACE: place,
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(asked)], env=env, capture_output=True, text=True, timeout=60
        )
        printed = done.stdout.splitlines()
        said = [json.loads(line[5:]) for line in printed if line.startswith("SAID ")]
        handled = [line[8:].partition(" ")[0] for line in printed if line.startswith("HANDLED ") and MARK not in line]
        told = [
            json.loads(line.partition(f"{MARK} ")[2]) for line in printed if MARK in line
        ]  # not always at its beginning
        assert said or told, done.stderr
        return said, handled, told

    return run


def custom(id: str = "e-1", **data: Any) -> dict[str, Any]:
    return {"source": "ekiben", "detail": ek.Event(id=id, type="Custom", source="me", data=data).to_dict()}


def test_an_event_that_comes_twice_is_handled_once(calls: Calls) -> None:
    said, handled, told = calls(
        (custom(), "r1"), (custom(), "r2"), (custom(), "r1"), (custom("e-2"), "r3"),
    )  # fmt: skip
    assert handled == ["e-1", "e-2"]
    assert said == [{"result": ""}, None, None, {"result": ""}]
    assert [one["state"] for one in told if one["id"] == "e-1"] == ["running", "done", "again", "again"]


def test_a_failed_one_is_handled_by_those_who_try_it_again_and_by_its_replay(calls: Calls) -> None:
    bad, again = custom(fail="no"), {**custom(), "turn": "2026-01-02T00:00:00Z"}
    said, handled, _ = calls(
        (bad, "r1"), (custom(), "r2"), (bad, "r1"), (again, "r3"), (bad, "r1"), ({**again, "turn": "2026-01-01"}, "r4"),
        (again, "r5"), ({**again, "turn": "2026-01-03"}, "r6"),
    )  # fmt: skip
    assert [one and str(one)[:10] for one in said] == [
        "ValueError", None, "ValueError", "{'result':", None, None, None, "{'result':",
    ]  # fmt: skip
    assert len(handled) == 4


def test_of_many_at_once_one_has_the_event(place: str, aws: str, edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(marks.PLACE, place)
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    for turn in ("", "2026-01-01"):
        had: list[bool] = []
        barrier = threading.Barrier(8)

        def run(request: str, turn: str = turn, had: list[bool] = had, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            had.append(marks.claim("駅 / \ud800", request, turn))

        threads = [threading.Thread(target=run, args=(f"r{number}",)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(had) == [False] * 7 + [True]


def test_where_marks_cannot_be_kept_the_delivery_fails_and_is_tried_again(calls: Calls, bucket: str) -> None:
    said, handled, told = calls((custom(), "r1"), place=f"s3://not-{bucket}/x")
    assert handled == []
    assert said[0].startswith("NotFound")
    assert [one["state"] for one in told] == ["failed"]
    said, handled, _ = calls((custom(), "r1"), (custom(), "r2"), place="")
    assert handled == ["e-1", "e-1"], "without a place nothing is marked"


def test_of_a_batch_only_what_failed_comes_again(calls: Calls, bucket: str) -> None:
    def message(id: str, body: Any) -> dict[str, Any]:
        text = body if isinstance(body, str) else json.dumps(body)
        return {"eventSource": "aws:sqs", "messageId": id, "body": text}

    notice = {
        "eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "eventTime": "2026-01-01T00:00:00Z",
        "s3": {
            "bucket": {"name": bucket},
            "object": {"key": "drop/%E9%A7%85+a%2Bb%25.csv", "eTag": "e", "size": 1, "sequencer": "7"},
        },
    }  # fmt: skip
    detail = {
        "bucket": {"name": bucket},
        "object": {"key": "drop/駅 a+b%.csv", "etag": "e", "size": 1, "sequencer": "7"},
    }
    batch = [
        message("m1", custom("b-1")), message("m2", custom("b-2", fail="no")), message("m3", "no JSON"),
        message("m4", {"Records": [notice]}),
    ]  # fmt: skip
    said, handled, told = calls(
        ({"Records": batch}, "r1"),
        ({"Records": batch[:3]}, "r2"),
        ({"Records": [notice, {**notice, "eventName": "ObjectRemoved:Delete"}]}, "r3"),
        ({"source": "aws.s3", "detail": detail}, "r4"),
    )
    failed = {"batchItemFailures": [{"itemIdentifier": "m2"}, {"itemIdentifier": "m3"}]}
    assert said == [failed, failed, {"batchItemFailures": []}, None], "the last is the object of the batch"
    (landed,) = (one["event"] for one in told if one.get("event", {}).get("type") == "NewData")
    assert (landed["subject"], landed["source"]) == ("drop/駅 a+b%.csv", "lake")
    assert handled == ["b-1", "b-2", landed["id"], "b-2"]
    two = [{**notice, "s3": {}}, {**notice, "s3": {**notice["s3"], "object": {"key": "other", "sequencer": "8"}}}]  # type: ignore[dict-item]
    said, handled, _ = calls(({"Records": two}, "r1"))
    assert said[0].startswith("SpecError"), "the first error of S3's own is raised"
    assert len(handled) == 1, "and the others are handled"


def test_what_is_no_event_fails_cleanly_and_is_told(calls: Calls) -> None:
    poison = [
        [], "x", 1, None, {}, {"source": "aws.s3"}, {"source": "aws.s3", "detail": {"bucket": 1}}, {"ekiben": {"id": 1}},
        {"source": "ekiben", "detail": {"nothing": "known"}}, {"requestContext": {}, "body": "{"}, {"schedule": "x"},
        {"Records": [2]}, {"source": "aws.sagemaker", "detail": {}},
    ]  # fmt: skip
    said, handled, told = calls(*((one, f"r{number}") for number, one in enumerate(poison)), (custom("\ud800 駅"), "r"))
    assert handled == []
    assert (told[-1]["id"], told[-1]["state"]) == ("\ud800 駅", "failed"), (
        "half a pair cannot be printed, by its handler"
    )
    for one in said[:-1]:
        assert one.startswith(("SpecError: ", "NotFound: ")), one
    assert [one["state"] for one in told[: len(poison)]] == ["failed"] * len(poison)
    assert len({one["id"] for one in told[: len(poison)]}) == len(poison)


def test_a_large_event_is_handled_and_its_line_is_short(calls: Calls) -> None:
    said, handled, told = calls((custom("large", text="駅" * 100_000), "r1"))
    assert handled == ["large"]
    assert (told[0]["cut"], told[0]["event"]["data"]) == (True, {})
    assert all(len(json.dumps(one)) < LINE_BYTES for one in told)


def test_the_log_says_that_time_was_out_before_lambda_ends_the_process(calls: Calls) -> None:
    _, _, told = calls((custom("late", slow_s=0.3), "r1", 501))
    assert [(one["state"], one.get("error", "")) for one in told] == [("running", ""), ("failed", "it ran out of time")]
    _, _, told = calls((custom("early"), "r1", 60_000))
    assert [one["state"] for one in told] == ["running", "done"]


# The dead-letter queue.


@pytest.fixture
def queue(client: Callable[[str], Any]) -> str:
    return str(client("sqs").create_queue(QueueName=f"dead-{uuid.uuid4().hex[:8]}")["QueueUrl"])


class Log:
    """A log group, into which a test writes what a handler would."""

    def __init__(self, client: Callable[[str], Any]) -> None:
        self.logs, self.group = client("logs"), f"/aws/lambda/{uuid.uuid4().hex[:8]}"
        self.logs.create_log_group(logGroupName=self.group)

    def __call__(self, *told: dict[str, Any]) -> None:
        stream = uuid.uuid4().hex
        self.logs.create_log_stream(logGroupName=self.group, logStreamName=stream)
        at = int(time.time() * 1000)
        lines = [f"{MARK} {json.dumps(one)}" for one in told]
        for first in range(0, len(lines), 10_000):
            events = [{"timestamp": at, "message": line} for line in lines[first : first + 10_000]]
            self.logs.put_log_events(logGroupName=self.group, logStreamName=stream, logEvents=events)


@pytest.fixture
def log(client: Callable[[str], Any]) -> Log:
    return Log(client)


@pytest.fixture
def sent(edge: Edge) -> Iterator[list[Any]]:
    found: list[Any] = []

    def run(name: str, version: str, payload: Any) -> Ran:
        found.append(payload)
        return Ran()

    edge.runs = run
    yield found
    edge.runs = None


@pytest.fixture
def bound(queue: str, log: Log, sent: list[Any], function: str, bucket: str) -> Function:
    facts = {
        "region": REGION, "function": function, "log_group": log.group, "timeout_s": 60, "retries": 1, "dead_letters": queue,
    }  # fmt: skip
    part = ek.Part(name="retrain", kind="function", provider="aws", ref="", facts=facts)
    lake = ek.Part(
        name="lake", kind="storage", provider="aws", ref="", facts={"region": REGION, "uri": f"s3://{bucket}"}
    )
    return Function(part, platform(part, lake))


def put(client: Callable[[str], Any], queue: str, body: Any, **told: str) -> None:
    attributes = {key: {"DataType": "String", "StringValue": value} for key, value in told.items()}
    text = body if isinstance(body, str) else json.dumps(body)
    client("sqs").send_message(QueueUrl=queue, MessageBody=text, MessageAttributes=attributes)


def left(client: Callable[[str], Any], queue: str) -> int:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"]
    assert found[names[1]] == "0", "what was looked at is shown to others again"
    return int(found[names[0]])


def test_dead_letters_are_listed_replayed_and_gone(
    bound: Function, client: Callable[[str], Any], queue: str, log: Log, sent: list[Any], bucket: str
) -> None:
    detail = {"bucket": {"name": bucket}, "object": {"key": "drop/駅.csv", "etag": "e", "size": 1, "sequencer": "7"}}
    landed = {"source": "aws.s3", "detail": detail}
    put(client, queue, landed, ERROR_CODE="NO_PERMISSIONS", ERROR_MESSAGE="it may not")
    put(client, queue, "poison", RequestID="r9", ErrorCode="200", ErrorMessage="no event")
    record = {
        "requestPayload": custom("e-3"), "responsePayload": {"errorType": "ValueError", "errorMessage": "no"},
        "requestContext": {"requestId": "r3", "approximateInvokeCount": 2},
    }  # fmt: skip
    put(client, queue, record)
    # Of this one the log knows all; by its count it would be tried again.
    event = {"type": "Custom", "id": "e-4", "source": "me"}
    log(
        {"id": "e-4", "turn": "", "request": "r4", "state": "running", "event": event, "at": "2026-01-01T00:00:00Z"},
        {
            "id": "e-4", "turn": "", "request": "r4", "state": "failed", "error": "ValueError: x",
            "at": "2026-01-01T00:00:01Z",
        },
    )  # fmt: skip
    assert bound.deliveries("waiting")
    put(client, queue, custom("e-4"), RequestID="r4", ErrorCode="200", ErrorMessage="x")
    dead = {one["id"]: one for one in bound.deliveries("dead")}
    assert bound.deliveries("waiting") == []
    assert left(client, queue) == 4
    (new,) = (id for id in dead if id.startswith("newdata-"))
    (poison,) = (id for id in dead if id.startswith("unknown-"))
    assert set(dead) == {new, poison, "e-3", "e-4"}
    assert (dead[new]["event"]["subject"], dead[new]["error"]) == ("drop/駅.csv", "it may not")
    assert (dead[poison]["event"], dead[poison]["error"]) == ({}, "no event")
    assert (dead["e-3"]["attempts"], dead["e-3"]["error"]) == (2, "ValueError: no")
    assert (dead["e-4"]["attempts"], dead["e-4"]["error"]) == (1, "ValueError: x")
    for id in dead:
        bound.replay(id)
    assert left(client, queue) == 0
    assert {**landed, "turn": dead[new]["ended_at"]} in sent
    assert {**custom("e-4"), "turn": "2026-01-01T00:00:01Z"} in sent
    assert {**custom("e-3"), "turn": dead["e-3"]["ended_at"]} in sent
    assert {} in sent, "what is no event is sent as it was; the fake reads dicts only"
    assert len(sent) == 4
    with pytest.raises(ek.NotFound, match="no such delivery"):
        bound.replay(new)


def test_a_letter_of_before_a_replay_says_nothing_and_goes(
    bound: Function, client: Callable[[str], Any], queue: str, log: Log, sent: list[Any]
) -> None:
    put(client, queue, custom("e-5"), RequestID="r5", ErrorMessage="x")
    event = {"type": "Custom", "id": "e-5", "source": "me"}
    turn = "2026-01-01T00:00:01Z"
    log(
        {"id": "e-5", "turn": "", "request": "r5", "state": "running", "event": event, "at": "2026-01-01T00:00:00Z"},
        {"id": "e-5", "turn": "", "request": "r5", "state": "failed", "error": "x", "at": turn},
        {"id": "e-5", "turn": turn, "request": "r6", "state": "running", "event": event, "at": "2026-01-01T00:01:00Z"},
        {"id": "e-5", "turn": turn, "request": "r6", "state": "done", "at": "2026-01-01T00:01:01Z"},
    )
    (found,) = bound.deliveries()
    assert (found["state"], found["error"]) == ("done", "")
    bound.replay("e-5")
    assert (sent, left(client, queue)) == ([], 0)


def test_a_large_event_is_replayed_from_its_letter_only(
    bound: Function, client: Callable[[str], Any], queue: str, log: Log, sent: list[Any]
) -> None:
    event = {"type": "Custom", "id": "big", "source": "me", "data": {}}
    told = {"id": "big", "turn": "", "request": "r1"}
    for second in (0, 2):
        log({**told, "state": "running", "event": event, "cut": True, "at": f"2026-01-01T00:00:0{second}Z"},
            {**told, "state": "failed", "error": "x", "at": f"2026-01-01T00:00:0{second + 1}Z"})  # fmt: skip
    with pytest.raises(ek.NotFound, match="too large for the log"):
        bound.replay("big")
    whole = custom("big", text="x" * 150_000)
    put(client, queue, whole, RequestID="r1", ErrorMessage="x")
    bound.replay("big")
    assert sent == [{**whole, "turn": "2026-01-01T00:00:03Z"}]


def test_ten_thousand_objects_are_ten_thousand_deliveries(bound: Function, log: Log) -> None:
    def line(number: int, state: str) -> dict[str, Any]:
        event = {"type": "NewData", "id": f"n-{number}", "source": "lake", "subject": f"drop/{number}"}
        return {"id": f"n-{number}", "turn": "", "request": str(number), "state": state, "event": event,
                "at": f"2026-01-01T00:00:00.{number:06}Z"}  # fmt: skip

    log(*(line(number, state) for state in ("running", "done") for number in range(10_000)))
    found = bound.deliveries("done")
    assert len(found) == 10_000
    assert [one["id"] for one in found[:2]] == ["n-9999", "n-9998"]
