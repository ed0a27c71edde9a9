"""Functions: the real bundle and the real handler in a process of its own, called as Lambda does, told of by their log."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import ekiben as ek
from ekiben import packing
from ekiben.aws.function import Function
from ekiben.aws.handler import MARK
from ekiben.aws.jobs import job_name
from ekiben.aws.training import Training
from tests.fakes.aws import Edge, Ran

from .conftest import REGION, platform, training_part
from .test_endpoint import function as function  # noqa: PLC0414

MAIN = """
def handler(event, runtime):
    print("駅弁", event.type)
    if event.data.get("fail"):
        raise ValueError(event.data["fail"])
    return {"type": event.type, "source": event.source, "subject": event.subject, "id": event.id, "data": event.data,
            "parts": sorted(runtime.platform.parts)}
"""
RUN = """
import json, sys
from types import SimpleNamespace
from ekiben.aws.handler import handle
result = handle(json.load(sys.stdin), SimpleNamespace(aws_request_id="request-1"))
open(sys.argv[1], "w").write(json.dumps(result))
"""


class Bundle:
    """A function's bundle, unpacked, and what Lambda does with it: run it, and keep what it prints."""

    def __init__(self, folder: Path, client: Callable[[str], Any], group: str, platform: ek.Platform) -> None:
        source = folder / "source"
        source.mkdir(parents=True)
        (source / "main.py").write_text(MAIN, encoding="utf-8")
        made = packing.function_bundle(source, "aws")
        self.root = packing.unpack(made.path, made.sha256, folder / "task")
        self.bytes = made.path.stat().st_size
        (folder / "platform.json").write_text(platform.to_json(), encoding="utf-8")
        # The provider is registered as a third party's is: its deploy face is not there yet.
        known = folder / "known" / "known-1.dist-info"
        known.mkdir(parents=True)
        (known / "entry_points.txt").write_text("[ekiben.providers]\naws = ekiben.aws\n")
        (known / "METADATA").write_text("Metadata-Version: 2.1\nName: known\nVersion: 1\n")
        self.folder, self.logs, self.group = folder, client("logs"), group
        self.logs.create_log_group(logGroupName=group)

    def __call__(self, name: str, version: str, event: dict[str, Any]) -> Ran:
        path = os.pathsep.join(map(str, (self.root / "_ekiben", self.root, self.folder / "known")))
        names = ("PATH", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        env = {name: os.environ[name] for name in names} | {
            "PYTHONPATH": path,
            "EKIBEN_PLATFORM": str(self.folder / "platform.json"),
        }
        result = self.folder / "result.json"
        result.unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(result)],
            input=json.dumps(event),
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        text = f"START RequestId: request-1\n{done.stdout}{done.stderr}END RequestId: request-1"
        if done.returncode:
            return Ran(error=done.stderr.strip().splitlines()[-1], log=text)
        return Ran(payload=json.loads(result.read_text()), log=text)

    def keep(self, ran: Ran) -> None:
        """As CloudWatch does: not while the edge is asked, which answers one at a time."""
        stream = uuid.uuid4().hex
        self.logs.create_log_stream(logGroupName=self.group, logStreamName=stream)
        at = int(time.time() * 1000)
        events = [
            {"timestamp": at + number, "message": line} for number, line in enumerate(ran.log.splitlines()) if line
        ]
        self.logs.put_log_events(logGroupName=self.group, logStreamName=stream, logEvents=events)


@pytest.fixture
def training(bucket: str, library: packing.Bundle, edge: Edge) -> Training:
    part = training_part(bucket, library)
    return Training(part, platform(part))


@pytest.fixture
def lambda_(tmp_path: Path, client: Callable[[str], Any], function: str, bucket: str, training: Training) -> Bundle:
    lake = ek.Part(
        name="lake", kind="storage", provider="aws", ref="", facts={"region": REGION, "uri": f"s3://{bucket}"}
    )
    return Bundle(tmp_path, client, f"/aws/lambda/{function}", platform(lake, training.part))


@pytest.fixture
def bound(function: str, lambda_: Bundle, edge: Edge) -> Function:
    def run(name: str, version: str, event: dict[str, Any]) -> Ran:
        ran = lambda_(name, version, event)
        kept.append(ran)
        return ran

    kept: list[Ran] = []
    edge.runs = run
    facts = {"region": REGION, "function": function, "log_group": lambda_.group, "timeout_s": 300, "retries": 1}
    facts["url"] = "https://api.lambda-url.eu-west-1.on.aws/"
    part = ek.Part(name="retrain", kind="function", provider="aws", ref="", facts=facts)
    found = Function(part, platform(part))
    found.ran = kept  # type: ignore[attr-defined]
    return found


def flush(bound: Function, lambda_: Bundle) -> None:
    while bound.ran:  # type: ignore[attr-defined]
        lambda_.keep(bound.ran.pop(0))  # type: ignore[attr-defined]


def test_a_call_waits_and_returns_what_the_handler_returned(bound: Function, lambda_: Bundle) -> None:
    silent = Function(dataclasses.replace(bound.part, facts={**bound.part.facts, "url": ""}), bound.platform)
    with pytest.raises(ek.SpecError, match=r"no Http\(\)"):
        silent.call({})
    answer = bound.call({"x": [1, "駅弁"]})
    assert (answer["type"], answer["source"], answer["data"]) == ("Http", "retrain", {"x": [1, "駅弁"]})
    assert answer["parts"] == ["lake", "tiny"]
    with pytest.raises(ek.FunctionFailed, match="ValueError: no data") as caught:
        bound.call({"fail": "no data"})
    assert "駅弁 Http" in caught.value.tail
    assert MARK not in caught.value.tail
    with pytest.raises(ek.SpecError, match="JSON"):
        bound.call({"x": float("nan")})
    flush(bound, lambda_)
    assert "駅弁 Http" in list(bound.logs())
    assert not any(MARK in line or line.startswith("START") for line in bound.logs())
    last, first = bound.deliveries()
    assert (first["state"], first["attempts"], first["id"]) == ("done", 1, answer["id"])
    assert (last["state"], last["error"]) == ("dead", "ValueError: no data"), "a call is made once"
    assert bound.deliveries("dead") == [last]
    with pytest.raises(ek.SpecError, match="nowhere"):
        bound.deliveries("nowhere")


def test_a_dead_letter_is_replayed(bound: Function, lambda_: Bundle, edge: Edge, function: str) -> None:
    event = ek.Event(id="custom-1", type="Custom", source="me", data={"fail": "again"})
    payload = {"source": "ekiben", "detail-type": "Custom", "detail": event.to_dict()}
    for expected in ("waiting", "dead"):
        lambda_.keep(lambda_(function, "$LATEST", payload))
        (found,) = bound.deliveries()
        assert (found["id"], found["state"], found["error"]) == ("custom-1", expected, "ValueError: again")
    assert (found["attempts"], found["event"]) == (2, event.to_dict())
    bound.replay("custom-1")
    flush(bound, lambda_)
    (found,) = bound.deliveries()
    assert (found["state"], found["attempts"]) == ("waiting", 1), "its tries are counted anew"
    bound.replay("custom-1")
    assert bound.ran == [], "it is not dead"  # type: ignore[attr-defined]
    with pytest.raises(ek.NotFound, match="nobody"):
        bound.replay("nobody")


def test_a_delivery_that_lambda_ended_is_not_running_for_ever(bound: Function, lambda_: Bundle) -> None:
    def line(at: datetime) -> str:
        said = {"id": at.isoformat(), "state": "running", "event": {"type": "Custom"}, "at": at.isoformat(), "turn": ""}
        return f"{MARK} {json.dumps(said)}"

    now = datetime.now(UTC)
    lambda_.keep(Ran(log=f"{line(now)}\n{line(now - timedelta(hours=1))}\n{MARK} half a li"))
    assert {one["state"] for one in bound.deliveries()} == {"running", "waiting"}
    assert "out of memory" in bound.deliveries("waiting")[0]["error"]


def test_new_data_is_told_by_the_name_of_its_storage(lambda_: Bundle, bucket: str) -> None:
    def landed(key: str, etag: str = "e1") -> Any:
        detail = {"bucket": {"name": bucket}, "object": {"key": key, "etag": etag, "size": 3, "sequencer": "1"}}
        ran = lambda_("f", "1", {"source": "aws.s3", "detail-type": "Object Created", "detail": detail})
        assert not ran.error, ran.log
        return ran.payload and ran.payload["result"]

    found = landed("drop/駅 弁.csv")
    assert (found["type"], found["source"], found["subject"]) == ("NewData", "lake", "drop/駅 弁.csv")
    assert found["data"] == {"uri": f"s3://{bucket}/drop/駅 弁.csv", "etag": "e1", "bytes": 3}
    assert landed("drop/駅 弁.csv")["id"] == found["id"] != landed("drop/駅 弁.csv", "e2")["id"]
    assert landed("runs/tiny/run-1/output/metrics.json") is None, "what Ekiben writes is no new data"


def test_the_end_of_a_training_job_is_the_end_of_its_run(lambda_: Bundle, training: Training) -> None:
    run = training.submit(ek.Job(id=f"run-{uuid.uuid4().hex[:8]}"))

    def changed(status: str, name: str = "") -> Any:
        detail = {"TrainingJobName": name or job_name(run.id, training._scope), "TrainingJobStatus": status}
        ran = lambda_("f", "1", {"source": "aws.sagemaker", "detail": detail})
        assert not ran.error, ran.log
        return ran.payload and ran.payload["result"]

    found = changed("Completed")
    assert (found["type"], found["source"], found["subject"]) == ("TrainingEnded", "tiny", run.id)
    assert (found["id"], found["data"]) == (f"training-ended-{run.id}", {"state": "succeeded", "reason": ""})
    assert changed("InProgress") is None
    assert changed("Completed", "somebody-elses") is None


def test_schedules_and_urls(lambda_: Bundle) -> None:
    due = {"schedule": "0 3 * * *", "zone": "Europe/Paris", "due": "2026-01-01T02:00:00Z", "function": "retrain"}
    found = lambda_("f", "1", due).payload["result"]
    assert (found["type"], found["subject"], found["source"]) == ("Schedule", "0 3 * * *", "retrain")
    assert found["id"] == lambda_("f", "1", due).payload["result"]["id"]
    called = {"requestContext": {"requestId": "r1", "http": {}}, "body": "eyJ4IjogMX0=", "isBase64Encoded": True}
    answer = lambda_("f", "1", called).payload
    assert answer["statusCode"] == 200
    assert json.loads(answer["body"])["result"]["data"] == {"x": 1}
    assert "nothing is known" in lambda_("f", "1", {"what": "is this"}).error
