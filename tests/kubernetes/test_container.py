"""The supervisor inside a training pod: the pod's own command and variables, against a real store; no cluster is needed for it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ekiben as ek
from ekiben import packing
from ekiben.kubernetes.facts import S3, TrainingFacts, facts_of
from ekiben.kubernetes.jobs import ask_of, request
from ekiben.kubernetes.keys import FAILED, event_key
from ekiben.kubernetes.rounds import Rounds
from ekiben.kubernetes.s3 import Refused

from .conftest import platform, training_part
from .store import client

JOB = Path(__file__).parents[1] / "rigs" / "project" / "training_jobs" / "tiny"
PATIENCE_S = 120


class Pods:
    """The pods of one run's Job, as processes of this machine."""

    def __init__(
        self,
        root: Path,
        url: str,
        bucket: str,
        library: packing.Bundle,
        code: Path = JOB,
        params: Any = None,
        **spec: Any,
    ) -> None:
        self.root, self.url, self.bucket, self.store = root, url, bucket, client(url)
        bundle = packing.bundle(code)
        self.part = training_part(bucket, S3(url=url, secret="keys"), library, bundle, **spec)
        for one in (bundle, library):
            self.store.put(f"{bucket}/code/{one.sha256}.tar", one.path.read_bytes())
        self.store.put(f"{bucket}/points/a.jsonl", b'{"x": 1, "y": 3}\n{"x": 2, "y": 6}\n')
        facts = facts_of(self.part, TrainingFacts)
        ask = ask_of(self.part, facts, ek.Job(id="run-1", params=params or {}), by="test", at="now")
        self.store.put(f"{bucket}/ask.json", json.dumps(ask).encode())
        self.job = request(platform(self.part), self.part, facts, ask, f"{bucket}/ask.json")
        self.started: list[subprocess.Popen[str]] = []

    def start(self, index: int = 0) -> subprocess.Popen[str]:
        container = self.job["spec"]["template"]["spec"]["containers"][0]
        known = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "POD_IP": "127.0.0.1"}
        env = {one["name"]: one.get("value", known.get(one["name"], "")) for one in container["env"]}
        folder = self.root / f"pod-{len(self.started)}"
        folder.mkdir()
        # What a cluster's DNS would say of the first node is said by this machine's own name.
        name = {"EKIBEN_MASTER_NAME": "localhost"} if env["EKIBEN_MASTER_NAME"] else {}
        env |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "TMPDIR": str(folder), "HOME": str(folder),
                "JOB_COMPLETION_INDEX": str(index), **name}  # fmt: skip
        made = subprocess.Popen(
            container["command"],
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.started.append(made)
        return made

    def run(self, index: int = 0) -> tuple[int, str]:
        return ended(self.start(index))

    def kept(self, name: str) -> Any:
        data = self.store.get(f"{self.bucket}/runs/tiny/run-1/{name}")
        return json.loads(data) if name.endswith(".json") else data.decode()

    def until(self, name: str, holds: Callable[[Any], bool] = bool) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                if holds(found := self.kept(name)):
                    return found
            except Refused:
                pass
            time.sleep(0.1)
        raise AssertionError(f"{name} did not come")


def ended(pod: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = pod.communicate(timeout=PATIENCE_S)
    return pod.returncode, said


@pytest.fixture
def pods(tmp_path: Path, store_url: str, bucket: str, library: packing.Bundle) -> Iterator[Callable[..., Pods]]:
    made: list[Pods] = []

    def make(**given: Any) -> Pods:
        made.append(Pods(tmp_path, store_url, bucket, library, **given))
        return made[-1]

    yield make
    for one in made:
        for pod in one.started:
            if pod.poll() is None:
                os.killpg(pod.pid, signal.SIGKILL)
                pod.wait()
    for at, _, _ in os.walk(tmp_path):
        os.chmod(at, 0o700)


def test_a_run_from_its_inputs_to_its_model(pods: Callable[..., Pods]) -> None:
    one = pods(params={"scale": 2.0})
    status, said = one.run()
    assert status == 0, said
    assert one.kept("model/model.json")["slope"] == pytest.approx(6.0)
    told = one.kept("status.json")
    assert (told["state"], told["metrics"], told["attempts"]) == ("succeeded", {"slope": 6.0, "points": 2.0}, 1)
    lineage = told["lineage"]
    assert lineage["inputs"]["points"]["files"][0]["uri"] == f"{one.bucket}/points/a.jsonl"
    assert (lineage["params"], lineage["by"], lineage["code"]["commit"]) == ({"scale": 2.0}, "test", "abc")
    assert "read 2 points on node 0" in said
    assert "read 2 points on node 0" in one.kept("log.txt")
    assert one.kept("output/signature.json")["target"] == "y"
    (event,) = [uri for uri, _ in one.store.list(f"{one.bucket}/deliveries/_events/")]
    assert event.endswith(event_key("training-ended-run-1").partition("-")[2])
    assert json.loads(one.store.get(event))["data"] == {"state": "succeeded", "reason": ""}
    # A pod that comes again, where nobody saw the first one end, changes nothing.
    assert one.run()[0] == 0
    assert one.kept("status.json") == told


def test_a_job_that_fails_says_why_and_its_job_is_not_tried_again(pods: Callable[..., Pods]) -> None:
    one = pods(params={"fail": "row 3 has no y: 駅弁"})
    status, said = one.run()
    assert status == FAILED, said
    assert one.kept("status.json")["reason"] == "row 3 has no y: 駅弁"


def test_a_failed_job_is_tried_again_and_finds_its_checkpoints(pods: Callable[..., Pods]) -> None:
    one = pods(params={"fail_first": True}, retries=1)
    status, said = one.run()
    assert status == 0, said
    assert [attempt["state"] for attempt in one.kept("attempts.json")] == ["failed", "succeeded"]
    assert one.kept("checkpoints/attempts.txt") == "attempt\nattempt\n"


def test_limits_of_time_and_memory_are_the_same_as_elsewhere(pods: Callable[..., Pods]) -> None:
    slow = pods(params={"steps": 1000, "step_s": 0.1}, timeout_s=2)
    assert slow.run()[0] == FAILED
    assert "time limit of 2 s" in slow.kept("status.json")["reason"]
    assert slow.kept("checkpoints/terminated.txt") == "yes", "SIGTERM came first"


def test_a_pod_that_is_told_to_stop_is_followed_by_one_that_goes_on(pods: Callable[..., Pods]) -> None:
    one = pods(params={"first_steps": 1000, "step_s": 0.05}, spot=True)
    pod = one.start()
    one.until("output/progress.jsonl")
    pod.send_signal(signal.SIGTERM)
    status, said = ended(pod)
    assert status == 143, said
    (cut,) = one.kept("attempts.json")
    assert (cut["state"], one.kept("checkpoints/terminated.txt")) == ("interrupted", "yes")
    assert 0 <= cut["lost_s"] < PATIENCE_S
    status, said = one.run()
    assert status == 0, said
    assert [attempt["state"] for attempt in one.kept("attempts.json")] == ["interrupted", "succeeded"]
    assert said.startswith("ekiben: of earlier pods, ")
    assert "attempt 2, with the checkpoint" in said
    assert one.kept("log.txt").count("read 2 points") == 2


@pytest.mark.parametrize("spot", [True, False], ids=["spot", "own"])
def test_a_pod_that_was_killed_is_followed_by_one_that_goes_on_on_spot_capacity(
    pods: Callable[..., Pods], spot: bool
) -> None:
    one = pods(params={"first_steps": 1000, "step_s": 0.05}, spot=spot)
    pod = one.start()
    one.until("checkpoints/attempts.txt")
    os.killpg(pod.pid, signal.SIGKILL)
    ended(pod)
    status, said = one.run()
    if spot:
        assert status == 0, said
        assert [attempt["state"] for attempt in one.kept("attempts.json")] == ["interrupted", "succeeded"]
        assert one.kept("checkpoints/attempts.txt") == "attempt\nattempt\n"
    else:
        assert status == FAILED, said
        assert "was killed" in one.kept("status.json")["reason"]


def test_nodes_begin_together_and_end_together(pods: Callable[..., Pods]) -> None:
    one = pods(nodes=2)
    both = [one.start(index) for index in range(2)]
    for rank, pod in enumerate(both):
        status, said = ended(pod)
        assert status == 0, said
        assert f"read 2 points on node {rank}" in said
    assert one.kept("status.json")["state"] == "succeeded"
    assert "on node 1" in one.kept("log-1.txt")


def test_when_a_node_fails_the_others_are_stopped_and_the_run_has_its_reason(pods: Callable[..., Pods]) -> None:
    one = pods(params={"fail_rank": 1, "steps": 2000, "step_s": 0.05}, nodes=2)
    both = [one.start(index) for index in range(2)]
    assert [ended(pod)[0] for pod in both] == [FAILED, FAILED]
    assert one.kept("status.json")["reason"] == "rank 1 gives up"


def test_a_node_whose_pod_is_killed_takes_the_others_into_another_round(pods: Callable[..., Pods]) -> None:
    one = pods(params={"first_steps": 2000, "step_s": 0.05}, nodes=2, spot=True)
    first, second = (one.start(index) for index in range(2))
    one.until("checkpoints/attempts.txt")
    one.until("log-1.txt", lambda text: "on node 1" in text)
    os.killpg(second.pid, signal.SIGKILL)
    ended(second)
    again = one.start(1)
    for pod in (first, again):
        status, said = ended(pod)
        assert status == 0, said
    (cut, whole) = one.kept("attempts.json")
    assert (cut["state"], whole["state"]) == ("interrupted", "succeeded")
    assert "node 1 was killed" in cut["reason"]


def test_a_first_node_that_goes_before_it_has_stored_the_model_takes_the_others_into_another_round(
    pods: Callable[..., Pods],
) -> None:
    one = pods(nodes=2, spot=True)
    second = one.start(1)
    # The first node's pod, as far as the store sees it, up to the moment at which it is killed.
    first = Rounds(one.store, f"{one.bucket}/runs/tiny/run-1/rounds", 0, 2, "127.0.0.1")
    assert first.enter(lambda: False)
    assert first.succeeded(lambda: False)
    first.leave()
    assert second.poll() is None, "it waits for what the first node has made"
    for pod in (one.start(0), second):
        status, said = ended(pod)
        assert status == 0, said
    told = one.kept("status.json")
    assert (told["state"], told["metrics"]["slope"]) == ("succeeded", 3.0)
    assert "node 0 was killed" in one.kept("rounds/0001/end.json")["reason"]


def test_the_lock_is_installed_from_wheels_where_there_is_no_index(pods: Callable[..., Pods], tmp_path: Path) -> None:
    code = tmp_path / "code"
    shutil.copytree(JOB, code)
    (code / "requirements.txt").write_text("no-such-package-of-ekiben==1.0\n")
    one = pods(code=code)
    ask = json.loads(one.store.get(f"{one.bucket}/ask.json"))
    one.store.put(f"{one.bucket}/wheels/other.whl", b"")
    one.store.put(f"{one.bucket}/ask.json", json.dumps({**ask, "wheels_uri": f"{one.bucket}/wheels/"}).encode())
    assert one.run()[0] == FAILED
    reason = one.kept("status.json")["reason"]
    assert "requirements.txt could not be installed" in reason
    assert "no-such-package-of-ekiben" in reason


def test_an_input_without_data_is_said_to_be_empty(pods: Callable[..., Pods]) -> None:
    one = pods()
    one.store.delete(f"{one.bucket}/points/a.jsonl")
    one.store.put(f"{one.bucket}/points/half.part", b"{")
    assert one.run()[0] == FAILED
    assert "The input 'points' is empty" in one.kept("status.json")["reason"]


def test_a_library_that_was_changed_is_not_run(pods: Callable[..., Pods], library: packing.Bundle) -> None:
    one = pods()
    one.store.put(f"{one.bucket}/code/{library.sha256}.tar", library.path.read_bytes() + b"\0")
    status, said = one.run()
    assert status == 1
    assert "not the one that was deployed" in said
    with pytest.raises(Refused):
        one.kept("attempts.json")


def test_the_jobs_process_has_no_key_of_the_store(pods: Callable[..., Pods], tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "train.py").write_text(
        "import json, os, pathlib\n"
        "pathlib.Path(os.environ['EKIBEN_MODEL_DIR'], 'seen.json').write_text(json.dumps(dict(os.environ)))\n"
    )
    one = pods(code=code)
    status, said = one.run()
    assert status == 0, said
    seen = one.kept("model/seen.json")
    assert not [name for name in seen if name.startswith("AWS_")]
    assert "not-a-secret" not in json.dumps(seen)
    assert seen["EKIBEN_NODE_COUNT"] == "1"


def test_the_library_needs_the_standard_library_alone(library: packing.Bundle, tmp_path: Path) -> None:
    folder = packing.unpack(library.path, library.sha256, tmp_path / "unpacked")
    program = (
        "import ekiben.kubernetes.container, ekiben.job, sys; print(sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    said = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert {name for name in eval(said) if name not in sys.stdlib_module_names} - {"__main__"} == {"ekiben"}
    packing.remove(folder)
