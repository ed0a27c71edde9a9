"""A function's pod: its own command and variables, as a process of this machine, against a real store."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ekiben as ek
from ekiben import packing
from ekiben.kubernetes.bootstrap import command, variables
from ekiben.kubernetes.deliveries import name_of
from ekiben.kubernetes.facts import S3, FunctionFacts
from ekiben.kubernetes.function import Function
from ekiben.kubernetes.keys import event_key
from ekiben.kubernetes.pods import s3_variables
from tests.serving.platforms import free_port

from .conftest import NAMESPACE, platform
from .store import client

PATIENCE_S = 120
TOKEN = "a-token"  # noqa: S105 - of a process of this test
MAIN = """
import json, os, pathlib, time

def handler(event, runtime):
    print("handles", event.type, event.subject)
    seen = pathlib.Path(os.environ["SEEN"])
    with seen.open("a") as file:
        file.write(json.dumps(event.to_dict()) + chr(10))
    if event.data.get("fail"):
        raise ValueError("no: 駅弁")
    if event.data.get("slow"):
        time.sleep(300)
    return {"type": event.type, "names": runtime.names("storage")}
"""
ON: list[dict[str, Any]] = [
    {"type": "NewData", "storage": "lake", "prefix": "points/", "suffix": ".jsonl"},
    {"type": "On", "event": "ModelDecided", "source": "models"},
    {"type": "Schedule", "cron": "* * * * *", "zone": "UTC"},
    {"type": "Http"},
]


class Pod:
    """The pod of one function. Pods after the first take its place."""

    def __init__(self, root: Path, url: str, bucket: str, **facts: Any) -> None:
        self.root, self.store, self.bucket, self.port = root, client(url), bucket, free_port()
        source = root / "source"
        source.mkdir()
        (source / "main.py").write_text(MAIN, encoding="utf-8")
        bundle = packing.function_bundle(source, "kubernetes")
        self.store.put(f"{bucket}/code/f.tar", bundle.path.read_bytes())
        s3 = S3(url=url, secret="keys")
        on = [{**one, "uri": bucket} if one["type"] == "NewData" else one for one in ON]
        self.facts = FunctionFacts(
            namespace=NAMESPACE, service="watch", s3=s3, deliveries_uri=f"{bucket}/deliveries/watch",
            bus=f"{bucket}/deliveries/_events",
            token_secret="watch-token", on=on, url=f"http://127.0.0.1:{self.port}",
            **{"timeout_s": 60, "retries": 1, "backoff_s": 0.1, **facts},
        )  # fmt: skip
        known = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}
        told = [*s3_variables(s3), *variables(f"{bucket}/code/f.tar", bundle.sha256, "_ekiben")]
        self.env = {one["name"]: one.get("value", known.get(one["name"], "")) for one in told} | {
            "EKIBEN_FUNCTION": self.facts.to_json(), "EKIBEN_FUNCTION_NAME": "watch", "EKIBEN_SERVER_TOKEN": TOKEN,
            "EKIBEN_PLATFORM": platform().to_json(), "EKIBEN_PORT": str(self.port), "SEEN": str(root / "seen"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(root), "TMPDIR": str(root),
        }  # fmt: skip
        part = ek.Part(name="watch", kind="function", provider="kubernetes", ref="watch", facts=self.facts.to_dict())
        self.function = Function(part, platform(part))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Pod:
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command("ekiben.kubernetes.handler"), env=self.env, stdout=log, stderr=log, start_new_session=True
            )
        self.until(lambda: self._answers())
        return self

    def stop(self, number: int) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
            self.process.wait(PATIENCE_S)

    def until(self, holds: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if found := holds():
                return found
            time.sleep(0.1)
        raise AssertionError((self.root / "log").read_text(errors="replace")[-3000:])

    def publish(self, event: ek.Event) -> None:
        self.store.put(f"{self.bucket}/deliveries/_events/{event_key(event.id)}", event.to_json().encode())

    def seen(self) -> list[dict[str, Any]]:
        path = self.root / "seen"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def _answers(self) -> bool:
        try:
            return bool(urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5).status == 200)
        except OSError:
            return False


@pytest.fixture
def pod(tmp_path: Path, store_url: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Pod]]:
    made: list[Pod] = []
    # The run face here is in a place that has the store's keys, as a pod has them.
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "EKIBEN_S3_SECRET": "keys",
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)

    def make(**facts: Any) -> Pod:
        made.append(Pod(tmp_path, store_url, bucket, **facts))
        return made[-1]

    yield make
    for one in made:
        if one.process is not None:
            one.stop(signal.SIGKILL)


def test_what_a_function_waits_for_is_delivered_once_and_other_things_are_not(pod: Callable[..., Pod]) -> None:
    one = pod()
    one.store.put(f"{one.bucket}/points/before.jsonl", b"{}")
    one.publish(ek.Event(id="long-ago", type="ModelDecided", source="models"))
    one.start()
    one.store.put(f"{one.bucket}/points/駅 弁.jsonl", b"{}")
    for other in ("points/half.jsonl.part", "points/x.csv", "elsewhere/x.jsonl"):
        one.store.put(f"{one.bucket}/{other}", b"{}")
    decided = ek.Event(id="decided-1", type="ModelDecided", source="models", subject="tiny:1")
    for event in (
        decided, decided, ek.Event(id="decided-2", type="ModelDecided", source="others"),
        ek.Event(id="due-1", type="Schedule", source="watch", subject="* * * * *"),
        ek.Event(id="due-2", type="Schedule", source="other"),
    ):  # fmt: skip
        one.publish(event)
    one.until(lambda: len(one.function.deliveries("done")) == 3)
    assert sorted((event["type"], event["subject"]) for event in one.seen()) == [
        ("ModelDecided", "tiny:1"), ("NewData", "points/駅 弁.jsonl"), ("Schedule", "* * * * *"),
    ]  # fmt: skip
    landed = next(event for event in one.seen() if event["type"] == "NewData")
    assert (landed["source"], landed["data"]["bytes"]) == ("lake", 2)
    assert landed["data"]["uri"] == f"{one.bucket}/points/駅 弁.jsonl"
    assert "handles Schedule * * * * *" in list(one.function.logs())
    # A pod that takes its place has it from the store what was done, and does nothing again.
    one.stop(signal.SIGTERM)
    one.start()
    one.store.put(f"{one.bucket}/points/駅 弁.jsonl", b"{} ")
    one.until(lambda: len(one.function.deliveries("done")) == 4)
    assert len(one.seen()) == 4


def test_a_delivery_that_fails_is_tried_again_dies_and_can_be_replayed(pod: Callable[..., Pod]) -> None:
    one = pod().start()
    one.publish(ek.Event(id="bad", type="ModelDecided", source="models", data={"fail": True}))
    (dead,) = one.until(lambda: one.function.deliveries("dead"))
    assert (dead["attempts"], dead["error"]) == (2, "ValueError: no: 駅弁")
    assert dead["log_uri"] == f"{one.bucket}/deliveries/watch/log.txt"
    with pytest.raises(ek.NotFound, match="no such delivery"):
        one.function.replay("never")
    one.function.replay("bad")
    one.until(lambda: len(one.seen()) == 4)
    one.until(lambda: one.function.deliveries("dead"))
    assert one.function.deliveries("waiting") == []


def test_a_pod_that_is_killed_in_the_middle_delivers_again(pod: Callable[..., Pod]) -> None:
    one = pod().start()
    one.publish(ek.Event(id="slow", type="ModelDecided", source="models", data={"slow": True}))
    one.until(one.seen)
    assert one.function.deliveries("running")[0]["id"] == "slow"
    one.stop(signal.SIGKILL)
    one.start()
    one.until(lambda: len(one.seen()) == 2)
    assert {event["id"] for event in one.seen()} == {"slow"}


def test_a_pod_that_cannot_go_on_ends_and_says_why(pod: Callable[..., Pod]) -> None:
    one = pod().start()
    # Somebody has written where the pod alone writes.
    one.store.put(f"{one.bucket}/deliveries/watch/dead/{name_of('x')}.json", b"[1]")
    one.store.put(f"{one.bucket}/deliveries/watch/again/{name_of('x')}", b"")
    assert one.process is not None
    one.until(lambda: one.process and one.process.poll() is not None)
    assert one.process.returncode != 0
    assert "Traceback" in (one.root / "log").read_text()


@pytest.mark.parametrize("length", ["-1", "many", "9" * 40])
def test_a_body_of_no_length_is_not_read(pod: Callable[..., Pod], length: str) -> None:
    one = pod().start()
    connection = http.client.HTTPConnection("127.0.0.1", one.port, timeout=PATIENCE_S)
    connection.request("POST", "/call", headers={"content-length": length})
    assert connection.getresponse().status == 413
    connection.close()


def ask(pod: Pod, data: Any, token: str = TOKEN) -> tuple[int, Any]:
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    request = urllib.request.Request(f"{pod.facts.url}/call", json.dumps(data).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as refused:
        return refused.code, json.loads(refused.read())


def test_a_call_waits_and_is_answered_or_says_why_not(pod: Callable[..., Pod]) -> None:
    one = pod(timeout_s=5).start()
    assert ask(one, {"x": 1}) == (200, {"result": {"type": "Http", "names": []}})
    status, told = ask(one, {"fail": True})
    assert (status, told["error"]) == (500, "ValueError: no: 駅弁")
    assert "Traceback" in told["tail"]
    assert "past its time limit of 5 s" in ask(one, {"slow": True})[1]["error"]
    assert ask(one, {}, "another") == (401, {"error": "the token is missing or wrong"})
    assert one.function.deliveries() == [], "calls are no deliveries"


def test_the_objects_of_deliveries_are_named_by_what_every_store_takes() -> None:
    assert name_of("駅弁/../x") == name_of("駅弁/../x") != name_of("other")
    assert name_of("\ud800").isalnum()
