"""Endpoints when workers, models, bentos or the station fail."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ekiben.errors import IntegrityError, ModelFailed, NotFound, SpecError, Unavailable
from ekiben.records import ModelVersion
from ekiben.station import launch
from tests.waiting import PATIENCE_S, alive, until

from .conftest import SERVICE, Station, bento, sent, to_zero, version


def test_a_worker_that_was_killed_is_replaced(host: Station, doubling: ModelVersion) -> None:
    host.released("killed", doubling)
    pid = sent(host.call("killed", "pid", {}))
    os.kill(pid, signal.SIGKILL)
    again = sent(host.call("killed", "pid", {}))
    assert again != pid
    assert sent(host.call("killed")) == 6.0


def test_a_request_that_kills_workers_gets_an_error_and_the_next_one_an_answer(
    host: Station, doubling: ModelVersion
) -> None:
    host.released("poison", doubling)
    answer = host.call("poison", "crash", {})
    assert answer.status == 502
    assert "two workers ended" in answer.json()["error"]["message"]
    assert sent(host.call("poison")) == 6.0
    assert host.client.request("GET", "/v1/endpoints/poison/metrics")["metrics"][0]["errors"] == 1


def test_a_model_that_takes_too_long_gets_504(host: Station, doubling: ModelVersion) -> None:
    host.released("slow", doubling, timeout_s=0.5)
    answer = host.call("slow", "pid", {"sleep_s": 5})
    assert answer.status == 504
    assert "timeout_s" in answer.json()["error"]["message"]
    assert sent(host.call("slow")) == 6.0


def test_a_model_that_only_hangs_is_replaced(host: Station, doubling: ModelVersion) -> None:
    host.released("hangs", doubling, timeout_s=0.4, concurrency=1, max_instances=1)
    pid = sent(host.call("hangs", "pid", {}))
    os.kill(pid, signal.SIGSTOP)
    assert host.call("hangs").status == 504
    assert sent(host.call("hangs", "pid", {})) != pid


def test_an_answer_that_breaks_off_is_seen_to_and_counted_when_the_model_is_to_blame(
    host: Station, doubling: ModelVersion
) -> None:
    host.released("breaks", doubling)
    headers = {"Authorization": f"Bearer {(host.state_dir / 'token').read_text()}", "Content-Type": "application/json"}

    def begun(**body: int) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(
            "127.0.0.1", int(host.client.url.rpartition(":")[2]), timeout=PATIENCE_S
        )
        connection.request("POST", "/endpoints/breaks/stream", json.dumps(body), headers)
        return connection.getresponse()

    def errors() -> tuple[int, int]:
        shown = host.client.request("GET", "/v1/endpoints/breaks/metrics")["metrics"][0]
        return shown["requests"], shown["errors"]

    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        begun(count=10, crash_at=5).read()
    until(lambda: errors() == (1, 1))
    left = begun(count=10_000_000)
    assert left.read(100)
    left.close()
    until(lambda: errors()[0] == 2)
    assert errors() == (2, 1)
    assert sent(host.call("breaks")) == 6.0


def test_an_instance_over_its_memory_is_replaced(host: Station, doubling: ModelVersion) -> None:
    host.released("memory", doubling, resources={"memory_mib": 400})
    pid = sent(host.call("memory", "allocate", {"mib": 500}))
    until(lambda: sent(host.call("memory", "pid", {})) != pid, "it is replaced")


def test_a_bento_that_is_not_the_one_promised_is_refused(host: Station, doubling: ModelVersion, tmp_path: Path) -> None:
    host.endpoint("digest")
    good = Path(doubling.bento_uri.removeprefix("file://")).read_bytes()
    bad = tmp_path / "bad.tar"
    bad.write_bytes(good[:600] + b"!" + good[601:])
    record, before = doubling.to_dict(), sorted(path.name for path in (host.state_dir / "bentos").glob("*"))
    for changed, error in (
        ({"bento_uri": bad.as_uri(), "digest": "1" + doubling.digest[1:]}, IntegrityError),
        ({"digest": "0" * 64}, IntegrityError),
        ({"digest": "../../etc"}, SpecError),
        ({"bento_uri": (tmp_path / "none.tar").as_uri(), "digest": "2" * 64}, NotFound),
        ({"bento_uri": "http://example.com/x.tar", "digest": "3" * 64}, SpecError),
        ({"model": "other"}, SpecError),
    ):
        with pytest.raises(error):
            host.client.request("POST", "/v1/endpoints/digest/revisions", {"version": {**record, **changed}})
        assert host.revisions("digest") == []
    assert sorted(path.name for path in (host.state_dir / "bentos").glob("*")) == before


def test_a_bento_that_does_not_start_is_reported_and_changes_nothing(
    host: Station, doubling: ModelVersion, tmp_path: Path
) -> None:
    id = host.released("broken", doubling)
    for number, (service, said) in enumerate(
        [
            ("import nonsense_that_is_not_there", "No module named 'nonsense_that_is_not_there'"),
            ("raise SystemExit('no licence')", "no licence"),
            ("Probe = 3", "is no service"),
            ("this is no python", "SyntaxError"),
            (SERVICE.replace("self.ballast = []", "raise MemoryError('weights')"), "weights"),
        ],
        start=2,
    ):
        (tmp_path / str(number)).mkdir()
        of = version(number, bento(tmp_path / str(number), service=service))
        with pytest.raises(ModelFailed, match=said):
            host.deploy("broken", of)
        assert not (host.state_dir / "bentos" / of.digest).exists()
    assert [(r["id"], r["weight"], r["state"]) for r in host.revisions("broken")] == [(id, 100.0, "ready")]
    assert sent(host.call("broken")) == 6.0


def test_a_model_that_stops_starting_is_reported_without_spinning_and_comes_back(
    host: Station, doubling: ModelVersion, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    host.released("loop", doubling, env={"FLAG": str(flag)})
    pid = sent(host.call("loop", "pid", {}))
    flag.touch()
    os.kill(pid, signal.SIGKILL)
    answers = [host.call("loop") for _ in range(20)]
    assert {answer.status for answer in answers} == {503}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
    assert "does not start" in answers[-1].json()["error"]["message"]
    shown = host.revisions("loop")[0]
    assert (shown["state"], shown["weight"]) == ("failed", 100.0)
    assert "the flag is up" in shown["reason"]
    log = (host.state_dir / "logs" / "endpoints" / "loop" / f"{shown['id']}.log").read_text()
    assert log.count("RuntimeError: the flag is up") <= 6  # a forked and a fresh one for each of a few attempts
    flag.unlink()
    until(lambda: host.call("loop").status == 200, "it comes back")
    assert host.revisions("loop")[0]["state"] == "ready"


def test_a_service_that_does_not_live_through_a_fork_is_started_afresh(host: Station, tmp_path: Path) -> None:
    forked = "import sys\nassert 'packaging.version' not in sys.modules, 'forked'\nimport packaging.version\n"
    service = forked + SERVICE
    of = version(7, bento(tmp_path, service=service))
    host.released("fresh", of, idle_s=1)
    assert sent(host.call("fresh")) == 6.0
    to_zero(host, "fresh")
    assert sent(host.call("fresh")) == 6.0
    log = (host.state_dir / "logs" / "endpoints" / "fresh" / f"v7-{of.digest[:8]}.log").read_text()
    assert log.count("AssertionError: forked") == 1  # the second time it is known


def test_after_a_restart_revisions_weights_tags_and_counts_are_there(
    station: Station, doubling: ModelVersion, tripling: ModelVersion
) -> None:
    one = station.released("api", doubling)
    two = station.deploy("api", tripling, tag="green")
    station.shift("api", **{one: 75, two: 25})
    assert [station.call("api").status for _ in range(8)] == [200] * 8
    workers = [sent(station.call(f"api@{id}", "pid", {})) for id in (one, two)]
    known = [{**r, "instances": 0} for r in station.revisions("api")]
    launch.stop(station.state_dir)
    station.start()
    assert [{**r, "instances": 0} for r in station.revisions("api")] == known
    counts = {
        m["revision"]: m["requests"] for m in station.client.request("GET", "/v1/endpoints/api/metrics")["metrics"]
    }
    assert counts == {one: 7, two: 3}
    assert sent(station.call("api@green")) == 9.0

    workers.append(sent(station.call("api@green", "pid", {})))
    station.kill()
    until(lambda: not any(alive(pid) for pid in workers), "the workers of a dead station end")
    broken = station.state_dir / "bentos" / doubling.digest / "src" / "model" / "factor.json"
    broken.chmod(0o600)
    broken.write_text("1000")
    station.start()
    assert sent(station.call(f"api@{one}")) == 6.0  # what was tampered with is not what is served
    assert [{**r, "instances": 0} for r in station.revisions("api")] == known


def test_a_deployment_that_the_station_did_not_live_through_can_be_made_again(
    station: Station, doubling: ModelVersion, tmp_path: Path
) -> None:
    station.endpoint("api")
    wait = "import os, time\nfrom pathlib import Path\nwhile Path(os.environ['FLAG']).exists(): time.sleep(0.05)\n"
    slow = version(3, bento(tmp_path, service=wait + SERVICE))
    flag = tmp_path / "flag"
    flag.touch()
    station.endpoint("api", env={"FLAG": str(flag)})
    with ThreadPoolExecutor(1) as pool:
        deploying = pool.submit(station.deploy, "api", slow)
        until(lambda: station.revisions("api"), "it is starting")
        assert station.revisions("api")[0]["state"] == "starting"
        station.kill()
        with pytest.raises(Unavailable):
            deploying.result()
    flag.unlink()
    station.start()
    assert station.revisions("api") == []
    assert station.deploy("api", slow) == f"v3-{slow.digest[:8]}"


def test_stopping_lets_the_running_requests_end(station: Station, doubling: ModelVersion) -> None:
    station.released("api", doubling)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(station.call, "api", "pid", {"sleep_s": 1.5})
        until(lambda: "held" in station.client.send("GET", "/metrics").body.decode())
        time.sleep(0.3)
        launch.stop(station.state_dir)
        answer = running.result()
    assert answer.status == 200
    until(lambda: not alive(answer.json()), "it is gone")
