"""E: endpoints (docs/contract.md)."""

from __future__ import annotations

import dataclasses
import json
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

import ekiben as ek
from ekiben.release import release
from tests.waiting import until

from .conftest import Rig


def call(address: tuple[str, str], token: str = "", body: bytes = b'{"x": 2}') -> int:
    url, host = address
    headers = {"Content-Type": "application/json", **({"Host": host} if host else {})}
    request = urllib.request.Request(f"{url}/predict", data=body, headers=headers)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_e1_a_new_endpoint_says_to_release_a_model(rig: Rig) -> None:
    fresh = rig.runtime.endpoint("fresh")
    assert fresh.revisions() == []
    with pytest.raises(ek.Unavailable, match="release"):
        fresh.invoke({"x": 1})


def test_e2_e3_e6_e13_a_candidate_gets_no_traffic_but_by_its_name(rig: Rig) -> None:
    endpoint, served = rig.runtime.endpoint("tiny-api"), rig.served
    version = rig.version(scale=2.0)
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: rig.connect().endpoint("tiny-api").deploy(version, tag="candidate"), range(2)))
    assert made[0].id == made[1].id
    assert (made[0].state, made[0].weight, made[0].version) == ("ready", 0.0, version.id)
    revisions = endpoint.revisions()
    assert revisions[0].id == made[0].id
    assert [r.id for r in revisions].count(made[0].id) == 1
    assert {endpoint.invoke({"x": 2}).body["y"] for _ in range(5)} == {served.sample["response"]["y"]}
    for name in (made[0].id, "candidate"):
        answer = endpoint.invoke({"x": 2}, revision=name)
        assert (answer.body, answer.revision) == ({"y": pytest.approx(12.0)}, made[0].id)
    endpoint.retire(made[0].id)
    endpoint.retire(made[0].id)
    assert made[0].id not in [r.id for r in endpoint.revisions()]


def test_e4_a_bento_with_other_bytes_is_never_loaded(rig: Rig) -> None:
    endpoint, served = rig.runtime.endpoint("tiny-api"), rig.served
    before = endpoint.revisions()
    lake, fresh = rig.runtime.storage("lake"), rig.version(scale=7.0)
    data = bytearray(lake.get(lake.key(fresh.bento_uri)))
    data[len(data) // 2] ^= 1
    lake.put(lake.key(fresh.bento_uri), bytes(data))
    for version in (fresh, dataclasses.replace(served, version=900, digest="f" * 64)):
        with pytest.raises(ek.IntegrityError):
            endpoint.deploy(version)
    assert [r.id for r in endpoint.revisions()] == [r.id for r in before]


def test_e5_a_bento_that_does_not_start_changes_nothing(rig: Rig) -> None:
    from ekiben.packing import pack

    endpoint, served = rig.runtime.endpoint("tiny-api"), rig.served
    lake = rig.runtime.storage("lake")
    template = lake.get(lake.key(endpoint.part.facts["template_uri"]))
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "template.tar").write_bytes(template)
        (path / "model").mkdir()
        (path / "model" / "model.json").write_text("{}")
        bad = pack(path / "template.tar", path / "model", {})
        lake.put(f"bentos/{bad.sha256}.tar", bad.path)
    version = dataclasses.replace(
        served, version=902, digest=bad.sha256, bento_uri=lake.uri(f"bentos/{bad.sha256}.tar")
    )
    before = [r for r in endpoint.revisions() if r.weight]
    with pytest.raises(ek.ModelFailed, match="slope"):
        endpoint.deploy(version)
    assert [r.id for r in endpoint.revisions() if r.weight] == [r.id for r in before]
    assert endpoint.invoke({"x": 2}).body == served.sample["response"]


def test_e7_e8_e9_e10_e11_traffic_follows_the_weights(rig: Rig) -> None:
    endpoint, served = rig.runtime.endpoint("tiny-api"), rig.served
    old = next(r for r in endpoint.revisions() if r.version == served.id)
    new = endpoint.deploy(rig.version(scale=3.0))
    for weights, error in (
        ({old.id: 50.0, new.id: 40.0}, ek.SpecError),
        ({old.id: 110.0, new.id: -10.0}, ek.SpecError),
        ({"nobody": 100.0}, ek.NotFound),
    ):
        with pytest.raises(error):
            endpoint.shift(weights)
    assert {r.id: r.weight for r in endpoint.revisions() if r.weight} == {old.id: 100.0}
    failures: list[str] = []
    stop = threading.Event()

    def load() -> None:
        mine = rig.connect().endpoint("tiny-api")
        while not stop.is_set():
            try:
                mine.invoke({"x": 2})
            except ek.EkibenError as error:
                failures.append(str(error))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    endpoint.shift({old.id: 70.0, new.id: 30.0})
    endpoint.shift({old.id: 70.0, new.id: 30.0})
    hits = [endpoint.invoke({"x": 2}).revision for _ in range(300)]
    with pytest.raises(ek.SpecError, match="traffic"):
        endpoint.retire(old.id)
    endpoint.shift({old.id: 100.0})
    endpoint.retire(new.id)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    # 300 draws at 30 %: mean 90, standard deviation 8; six of them either way.
    assert 42 <= hits.count(new.id) <= 138


def test_e12_e21_an_answer_and_its_count(rig: Rig) -> None:
    endpoint, served = rig.runtime.endpoint("tiny-api"), rig.served
    revision = next(r.id for r in endpoint.revisions() if r.weight)

    def count() -> ek.RevisionMetrics:
        return next(m for m in endpoint.metrics() if m.revision == revision)

    before = count()
    answer = endpoint.invoke({"x": 2})
    assert (answer.body, answer.endpoint, answer.revision) == (served.sample["response"], "tiny-api", revision)
    assert answer.latency_ms > 0
    assert count().requests == before.requests + 1
    assert count().p99_ms >= count().p50_ms > 0
    assert [m.revision for m in endpoint.metrics()] == [r.id for r in endpoint.revisions()]


@pytest.mark.parametrize(
    "payload",
    [{"x": "two"}, {"y": 2}, {}, [], None, {"x": [1, 2]}, {"x": float("nan")}, {"x": "a" * 20_000}],
    ids=["text", "other key", "empty", "list", "null", "shape", "nan", "too large"],
)
def test_e14_a_bad_payload_is_refused_and_the_instance_goes_on(rig: Rig, payload: Any) -> None:
    endpoint, served = rig.runtime.endpoint("tiny-api"), rig.served
    with pytest.raises(ek.SpecError):
        endpoint.invoke(payload)
    assert endpoint.invoke({"x": 2}).body == served.sample["response"]


def test_e15_a_model_that_fails_or_takes_too_long(rig: Rig) -> None:
    narrow, served = rig.runtime.endpoint("narrow"), rig.served
    with pytest.raises(ek.ModelFailed):
        narrow.invoke({}, route="broken")
    with pytest.raises(ek.ModelFailed, match="2"):
        narrow.invoke({"seconds": 30}, route="slow")

    def answer() -> Any:
        with suppress(*() if rig.ends_calls else (ek.ModelFailed, ek.Unavailable)):
            return narrow.invoke({"x": 2}).body

    assert until(answer) == served.sample["response"]


def test_e16_e18_from_zero_the_first_requests_are_held(rig: Rig) -> None:
    narrow, served = rig.runtime.endpoint("narrow"), rig.served
    rig.rest("narrow")
    answer = narrow.invoke({"x": 2})
    assert (answer.body, answer.cold) == (served.sample["response"], True)
    assert not narrow.invoke({"x": 2}).cold


def test_e17_more_than_the_queue_holds_is_refused(rig: Rig) -> None:
    narrow = rig.runtime.endpoint("narrow")
    assert rig.served
    narrow.invoke({"x": 2})

    def slow(_: int) -> str:
        try:
            rig.connect().endpoint("narrow").invoke({"seconds": 1.0}, route="slow")
        except ek.Unavailable as error:
            return str(error)
        return "ok"

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(slow, range(6)))
    # One at once is what its instances take, and one more what its queue holds, where a service holds calls at all.
    assert answers.count("ok") >= (2 if rig.holds else 1)
    assert any("again" in answer or "later" in answer for answer in answers)


def test_e19_a_killed_instance_is_replaced(rig: Rig) -> None:
    import subprocess

    endpoint, served = rig.runtime.endpoint("tiny-api"), rig.served
    if not rig.hosted:
        pytest.skip("the provider's own host")
    endpoint.invoke({"x": 2})
    subprocess.run(["pkill", "-9", "-f", served.digest], check=False)
    assert endpoint.invoke({"x": 2}).body == served.sample["response"]


def test_e20_a_token_is_needed_unless_the_endpoint_is_open(rig: Rig) -> None:
    assert rig.served
    address = rig.address("tiny-api")
    assert call(address) in (401, 403)
    assert call(address, "wrong") in (401, 403)
    assert call(rig.address("narrow")) == 200


def test_e22_revisions_survive_a_crash(rig: Rig) -> None:
    if not rig.hosted:
        pytest.skip("the provider's own host")
    endpoint, served = rig.runtime.endpoint("tiny-api"), rig.served
    before = {(r.id, r.weight) for r in endpoint.revisions()}
    rig.crash()
    again = rig.connect().endpoint("tiny-api")
    assert {(r.id, r.weight) for r in again.revisions()} == before
    assert again.invoke({"x": 2}).body == served.sample["response"]


def test_e23_bentoml_itself_gives_the_same_answer(rig: Rig, tmp_path: Any) -> None:
    import subprocess
    import sys

    from ekiben.packing import unpack

    endpoint, served = rig.runtime.endpoint("tiny-api"), rig.served
    lake = rig.runtime.storage("lake")
    lake.download(lake.key(served.bento_uri), tmp_path / "bento.tar")
    unpack(tmp_path / "bento.tar", served.digest, tmp_path / "bento")
    program = (
        "import sys, json, bentoml; service = bentoml.load(sys.argv[1]); "
        "print(json.dumps([service.inner().predict(x=x) for x in (0.1, 2.0, -7.5)]))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "bento")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [endpoint.invoke({"x": x}).body for x in (0.1, 2.0, -7.5)]


def test_e24_what_was_answered_is_in_the_prediction_log(rig: Rig) -> None:
    endpoint, served = rig.runtime.endpoint("tiny-api"), rig.served
    answers = [endpoint.invoke({"x": x}) for x in (1.5, 2.5, 3.5)]
    rows = endpoint.predictions(3)
    assert [row.id for row in rows] == [answer.id for answer in reversed(answers)]
    assert [json.loads(row.request) for row in rows] == [{"x": 3.5}, {"x": 2.5}, {"x": 1.5}]
    assert [json.loads(row.response) for row in rows] == [answer.body for answer in reversed(answers)]
    assert {(row.endpoint, row.route, row.status, row.model_version) for row in rows} == {
        ("tiny-api", "predict", 200, served.id)
    }
    assert len(endpoint.predictions(1)) == 1


def test_rollback_is_one_call(rig: Rig) -> None:
    from ekiben.release import rollback

    endpoint, served = rig.runtime.endpoint("tiny-api"), rig.served
    newer = rig.version(scale=4.0)
    release(rig.runtime, newer.id, endpoint="tiny-api", registry="models", who="rig", why="test")
    assert endpoint.invoke({"x": 2}).body == {"y": pytest.approx(24.0)}
    rollback(rig.runtime, endpoint="tiny-api", registry="models", who="rig", why="test")
    assert endpoint.invoke({"x": 2}).body == served.sample["response"]
    assert rig.runtime.registry("models").version("tiny@champion").id == served.id


def test_a_failed_smoke_test_leaves_the_traffic_as_it_was(rig: Rig) -> None:
    endpoint, served = rig.runtime.endpoint("tiny-api"), rig.served
    wrong = rig.version(scale=5.0, wrong_sample=1.0)
    with pytest.raises(ek.ModelFailed, match="sample"):
        release(rig.runtime, wrong.id, endpoint="tiny-api", registry="models", who="rig", why="test")
    assert endpoint.invoke({"x": 2}).body == served.sample["response"]
    assert wrong.id not in [r.version for r in endpoint.revisions()]
