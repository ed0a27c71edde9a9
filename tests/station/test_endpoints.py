"""Endpoints: revisions, traffic, scale from zero and back, what goes through."""

from __future__ import annotations

import http.client
import json
import os
import signal
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ekiben.errors import NotFound, SpecError, Unavailable
from ekiben.records import ModelVersion
from tests.waiting import PATIENCE_S, alive, until

from .conftest import Station, at_once, bento, sent, to_zero, version


def test_deployed_once_however_often_and_called_by_weight_id_and_tag(
    host: Station, doubling: ModelVersion, tripling: ModelVersion
) -> None:
    host.endpoint("split")
    with pytest.raises(Unavailable, match="no model has been released"):
        host.client.request("POST", "/endpoints/split/predict", {"x": 1})
    one = host.deploy("split", doubling)
    assert one == f"v1-{doubling.digest[:8]}"
    assert host.deploy("split", doubling, tag="blue") == one
    two = host.deploy("split", tripling, tag="green")
    assert [(r["id"], r["state"], r["weight"], r["tag"]) for r in host.revisions("split")] == [
        (two, "ready", 0.0, "green"), (one, "ready", 0.0, "blue"),
    ]  # fmt: skip
    assert sent(host.call("split@green")) == 9.0
    assert sent(host.call(f"split@{one}")) == 6.0
    assert host.call("split@red").status == 404
    host.shift("split", **{one: 90, two: 10})
    answers = [host.call("split") for _ in range(100)]
    assert Counter(answer.headers["ekiben-revision"] for answer in answers) == {one: 90, two: 10}
    assert {(answer.headers["ekiben-revision"], answer.json()) for answer in answers} == {(one, 6.0), (two, 9.0)}
    shown = {each["revision"]: each for each in host.client.request("GET", "/v1/endpoints/split/metrics")["metrics"]}
    assert (shown[one]["requests"], shown[two]["requests"], shown[one]["errors"]) == (91, 11, 0)
    assert 0 < shown[one]["p50_ms"] <= shown[one]["p95_ms"] <= shown[one]["p99_ms"]
    host.deploy("split", tripling, tag="blue")
    assert [(r["id"], r["tag"]) for r in host.revisions("split")] == [(two, "blue"), (one, "")]
    text = host.client.send("GET", "/metrics").body.decode()
    assert f'ekiben_endpoint_requests_total{{endpoint="split",revision="{one}"}} 91' in text


@pytest.mark.parametrize(
    "weights",
    [
        {"ONE": 50}, {"ONE": 101}, {"ONE": -1, "TWO": 101}, {"ONE": True}, {"ONE": "100"}, {}, [], None,
        {"ONE": 50, "nobody": 50},
    ],
)  # fmt: skip
def test_weights_that_make_no_sense_change_nothing(host: Station, doubling: ModelVersion, weights: Any) -> None:
    id = host.released("weights", doubling)
    given = (
        {id if key == "ONE" else key: value for key, value in weights.items()} if isinstance(weights, dict) else weights
    )
    with pytest.raises((SpecError, NotFound)):
        host.client.request("PUT", "/v1/endpoints/weights/weights", {"weights": given})
    assert [(r["id"], r["weight"]) for r in host.revisions("weights")] == [(id, 100.0)]


def test_from_zero_the_first_requests_are_held_and_all_answered(host: Station, doubling: ModelVersion) -> None:
    host.released("zero", doubling, idle_s=1, concurrency=4, max_instances=2)
    to_zero(host, "zero")
    answers = at_once(8, lambda n: host.call("zero", body={"x": n}))
    assert [sent(answer) for answer in answers] == [2.0 * n for n in range(8)]
    assert "1" in {answer.headers.get("ekiben-cold") for answer in answers}
    assert "ekiben-cold" not in host.call("zero").headers
    to_zero(host, "zero")


def test_temporary_files_of_a_worker_go_with_it(host: Station, doubling: ModelVersion) -> None:
    host.released("tidy", doubling, idle_s=1)
    folder = Path(host.call("tidy", "env", {"name": "TMPDIR"}).body.decode())
    assert folder != Path(tempfile.gettempdir())
    to_zero(host, "tidy")
    until(lambda: not folder.exists(), "BentoML leaves folders when its process is killed")


def test_more_requests_at_once_than_one_instance_takes_start_more_up_to_the_most(
    host: Station, doubling: ModelVersion
) -> None:
    host.released("wide", doubling, concurrency=1, max_instances=3, idle_s=60)
    answers = at_once(9, lambda n: host.call("wide", "pid", {"sleep_s": 0.5}))
    assert 2 <= len({sent(answer) for answer in answers}) <= 3
    assert host.revisions("wide")[0]["instances"] == 3


def test_a_full_queue_and_a_hold_that_is_over_answer_503_with_retry_after(
    host: Station, doubling: ModelVersion
) -> None:
    host.released("queue", doubling, concurrency=1, max_instances=1, max_queue=2)
    answers = at_once(8, lambda n: host.call("queue", "pid", {"sleep_s": 2}))
    assert Counter(answer.status for answer in answers) == {200: 3, 503: 5}
    refused = [answer for answer in answers if answer.status == 503]
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert "2 requests are held already" in refused[0].json()["error"]["message"]

    host.endpoint("queue", concurrency=1, max_instances=1, hold_s=0.2)
    answers = at_once(3, lambda n: host.call("queue", "pid", {"sleep_s": 1}))
    assert Counter(answer.status for answer in answers) == {200: 1, 503: 2}
    assert {answer.headers.get("retry-after") for answer in answers} == {None, "1"}
    assert sent(host.call("queue")) == 6.0


def test_retiring_drains_and_nothing_is_lost(host: Station, doubling: ModelVersion, tripling: ModelVersion) -> None:
    one = host.released("drain", doubling, concurrency=8)
    two = host.deploy("drain", tripling)
    with pytest.raises(SpecError, match="100 % of the traffic"):
        host.client.request("DELETE", f"/v1/endpoints/drain/revisions/{one}")
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(host.call, "drain", "pid", {"sleep_s": 0.05 * n}) for n in range(24)]
        until(lambda: sum(one.done() for one in running) >= 4)
        host.shift("drain", **{two: 100})
        host.client.request("DELETE", f"/v1/endpoints/drain/revisions/{one}")
        assert [call.result().status for call in running] == [200] * 24
    assert [r["id"] for r in host.revisions("drain")] == [two]
    assert host.client.request("DELETE", f"/v1/endpoints/drain/revisions/{one}") == {}
    assert host.call(f"drain@{one}").status == 404
    assert sent(host.call("drain")) == 9.0
    assert host.deploy("drain", doubling) == one
    assert sent(host.call(f"drain@{one}")) == 6.0


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"x": "much"}', b'{"x": null}', b'{"y": 1}', b"\xff\xfe", b"x" * 900]
)
def test_what_the_service_refuses_comes_back_as_it_says(host: Station, doubling: ModelVersion, body: bytes) -> None:
    host.released("strict", doubling, max_request_bytes=1000)
    answer = host.client.send("POST", "/endpoints/strict/predict", body)
    assert answer.status in (400, 422)
    assert sent(host.call("strict")) == 6.0


def test_a_body_that_is_too_large_gets_413_whether_announced_or_not(host: Station, doubling: ModelVersion) -> None:
    host.released("small", doubling, max_request_bytes=1000)
    assert host.client.send("POST", "/endpoints/small/predict", b"x" * 5_000_000).status == 413
    connection = http.client.HTTPConnection("127.0.0.1", int(host.client.url.rpartition(":")[2]), timeout=PATIENCE_S)
    token = (host.state_dir / "token").read_text()
    connection.request(
        "POST",
        "/endpoints/small/predict",
        iter([b"x" * 600] * 3),
        {"Authorization": f"Bearer {token}"},
        encode_chunked=True,
    )
    answer = connection.getresponse()
    assert answer.status == 413
    assert "1000 bytes" in json.loads(answer.read())["error"]["message"]
    assert sent(host.call("small")) == 6.0


def test_answers_stream_through_whole(host: Station, doubling: ModelVersion) -> None:
    host.released("stream", doubling)
    answer = host.call("stream", "stream", {"count": 20_000})
    assert answer.status == 200
    assert answer.body.decode().split() == [str(number) for number in range(20_000)]


def test_the_token_does_not_reach_the_model_and_other_headers_do(host: Station, doubling: ModelVersion) -> None:
    host.released("headers", doubling)
    given = {"X-Request-Id": "abc", "Connection": "X-Hop", "X-Hop": "1"}
    answer = host.client.send("POST", "/endpoints/headers/seen?q=%20%2F", b"{}", given)
    seen = sent(answer)
    assert seen["x-request-id"] == "abc"
    assert not {"authorization", "x-hop"} & set(seen)


def test_an_open_endpoint_needs_no_token_and_opens_nothing_else(host: Station, doubling: ModelVersion) -> None:
    host.released("open", doubling, auth="none")
    host.released("shut", doubling)

    def status(method: str, path: str) -> int:
        connection = http.client.HTTPConnection(
            "127.0.0.1", int(host.client.url.rpartition(":")[2]), timeout=PATIENCE_S
        )
        connection.request(method, path, b'{"x": 1}', {"Content-Type": "application/json"})
        return connection.getresponse().status

    assert status("POST", "/endpoints/open/predict") == 200
    assert status("POST", "/endpoints/shut/predict") == 401
    assert status("POST", "/endpoints/none/predict") == 401
    assert status("GET", "/v1/endpoints/open/revisions") == 401


def test_the_environment_of_a_service_is_the_specs_without_secrets(host: Station, doubling: ModelVersion) -> None:
    host.released("env", doubling, env={"COLOUR": "red"}, resources={"vcpu": 1})
    for name, value in {
        "COLOUR": "red",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "EKIBEN_TOKEN": "",
    }.items():
        assert host.call("env", "env", {"name": name}).body.decode() == value
    host.endpoint("env", env={"COLOUR": "blue"})
    until(lambda: host.call("env", "env", {"name": "COLOUR"}).body == b"blue", "the new value is there")


def test_instances_that_are_always_there_come_with_the_traffic(host: Station, doubling: ModelVersion) -> None:
    id = host.released("always", doubling, min_instances=2, max_instances=3, idle_s=1)
    until(lambda: host.revisions("always")[0]["instances"] == 2, "the minimum is there")
    os.kill(sent(host.call("always", "pid", {})), signal.SIGKILL)
    until(lambda: host.revisions("always")[0]["instances"] == 2, "the minimum is there again")
    host.client.request("DELETE", "/v1/resources/endpoint/always")
    assert host.call(f"always@{id}").status == 404


def test_deleted_nothing_of_an_endpoint_is_left(host: Station, tripling: ModelVersion, tmp_path: Path) -> None:
    only = version(9, bento(tmp_path, factor=9.0))
    host.released("gone", only)
    pid = sent(host.call("gone", "pid", {}))
    host.client.request("DELETE", "/v1/resources/endpoint/gone")
    host.client.request("DELETE", "/v1/resources/endpoint/gone")
    until(lambda: not alive(pid), "it is gone")
    assert not (host.state_dir / "bentos" / only.digest).exists()
    with pytest.raises(NotFound):
        host.revisions("gone")
    host.endpoint("gone")
    assert host.revisions("gone") == []
