"""The supervisor inside a training container: the real command, in the folders that SageMaker lays out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ekiben as ek
from ekiben import packing
from ekiben.aws.facts import TrainingFacts, facts_of
from ekiben.aws.jobs import BOOTSTRAP, ask_of
from tests.waiting import PATIENCE_S, until

from .conftest import training_part

JOB = Path(__file__).parents[1] / "rigs" / "project" / "training_jobs" / "tiny"


class Box:
    """A training container's file system below `root`, and what runs in it."""

    def __init__(self, root: Path, library: packing.Bundle, code: Path = JOB, **spec: Any) -> None:
        self.root, self.library = root, library
        self.data = root / "input" / "data"
        bundle = packing.bundle(code)
        part = training_part("lake", library, spec=spec, code_sha256=bundle.sha256)
        self.facts = facts_of(part, TrainingFacts)
        self.part = part
        self.channel("ekiben-library").joinpath(library.path.name).write_bytes(library.path.read_bytes())
        self.channel("ekiben-code").joinpath(bundle.path.name).write_bytes(bundle.path.read_bytes())
        self.channel("points").joinpath("a.jsonl").write_text('{"x": 1, "y": 3}\n{"x": 2, "y": 6}\n')
        self.asked()

    def channel(self, name: str) -> Path:
        folder = self.data / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def asked(self, **params: Any) -> Box:
        ask = ask_of(self.part, self.facts, ek.Job(id="run-1", params=params), by="test", at="now")
        self.channel("ekiben-ask").joinpath("ask.json").write_text(json.dumps(ask), encoding="utf-8")
        return self

    def node(self, current: str, *hosts: str) -> Box:
        config = self.root / "input" / "config"
        config.mkdir(parents=True, exist_ok=True)
        config.joinpath("resourceconfig.json").write_text(json.dumps({"current_host": current, "hosts": hosts}))
        return self

    def start(self) -> subprocess.Popen[str]:
        env = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "SAGEMAKER_BASE_DIR": str(self.root),
            "EKIBEN_LIBRARY_SHA256": self.library.sha256,
            "TMPDIR": str(self.root),
        }
        return subprocess.Popen(
            ["/bin/sh", "-c", BOOTSTRAP], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def run(self) -> tuple[int, str]:
        process = self.start()
        said, _ = process.communicate(timeout=120)
        return process.returncode, said

    def kept(self, name: str) -> Any:
        text = (self.root / "checkpoints" / name).read_text(encoding="utf-8")
        return json.loads(text) if name.endswith(".json") else text

    @property
    def failure(self) -> str:
        return (self.root / "output" / "failure").read_text(encoding="utf-8")


@pytest.fixture
def box(tmp_path: Path, library: packing.Bundle) -> Box:
    return Box(tmp_path, library)


def test_a_run_from_its_channels_to_its_model(box: Box) -> None:
    status, said = box.asked(scale=2.0).run()
    assert status == 0, said
    assert json.loads((box.root / "model" / "model.json").read_text())["slope"] == pytest.approx(6.0)
    assert "read 2 points on node 0" in said
    told = box.kept("status.json")
    assert (told["state"], told["metrics"], told["attempts"]) == ("succeeded", {"slope": 6.0, "points": 2.0}, 1)
    lineage = told["lineage"]
    assert lineage["inputs"]["points"]["rows"] == 2
    assert lineage["inputs"]["points"]["files"][0]["uri"] == "s3://lake/points/a.jsonl"
    assert (lineage["params"], lineage["by"], lineage["code"]["commit"]) == ({"scale": 2.0}, "test", "abc")
    assert {"python", "os", "packages"} <= set(lineage["environment"])
    assert lineage["job"]["timeout_s"] == 60
    assert "read 2 points" in box.kept("log.txt")
    assert json.loads((box.root / "checkpoints" / "output" / "signature.json").read_text())["target"] == "y"
    assert not (box.root / "output" / "failure").exists()


def test_a_job_that_fails_says_why(box: Box) -> None:
    status, said = box.asked(fail="row 3 has no y: 駅弁").run()
    assert status == 1, said
    assert box.failure == "row 3 has no y: 駅弁"
    assert box.kept("status.json")["reason"] == "row 3 has no y: 駅弁"
    assert box.asked(no_model=True).run()[0] == 1
    assert "no model" in box.failure


def test_a_failed_job_is_tried_again_and_finds_its_checkpoints(tmp_path: Path, library: packing.Bundle) -> None:
    box = Box(tmp_path, library, retries=1).asked(fail_first=True)
    status, said = box.run()
    assert status == 0, said
    assert [one["state"] for one in box.kept("attempts.json")] == ["failed", "succeeded"]
    assert box.kept("status.json")["attempts"] == 2
    assert box.kept("checkpoints/attempts.txt") == "attempt\nattempt\n"


def test_limits_of_time_and_memory_are_the_same_as_elsewhere(tmp_path: Path, library: packing.Bundle) -> None:
    slow = Box(tmp_path / "slow", library, timeout_s=2).asked(steps=1000, step_s=0.1)
    assert slow.run()[0] == 1
    assert "time limit of 2 s" in slow.failure
    assert slow.kept("checkpoints/terminated.txt") == "yes", "SIGTERM came first"
    large = Box(tmp_path / "large", library, resources={**slow.facts.spec["resources"], "memory_mib": 256})
    assert large.asked(eat_mib=600).run()[0] == 1
    assert "256 MiB" in large.failure


def test_a_job_that_is_told_to_stop_goes_on_from_its_checkpoint(box: Box) -> None:
    process = box.asked(first_steps=1000, step_s=0.05).start()
    until((box.root / "checkpoints" / "output" / "progress.jsonl").exists)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 143, said
    (cut,) = box.kept("attempts.json")
    assert (cut["state"], box.kept("checkpoints/terminated.txt")) == ("interrupted", "yes")
    assert 0 <= cut["lost_s"] < 60
    status, said = box.run()
    assert status == 0, said
    assert [one["state"] for one in box.kept("attempts.json")] == ["interrupted", "succeeded"]
    assert "attempt 2, with the checkpoint" in said
    assert box.kept("log.txt").count("read 2 points") == 2


def test_a_machine_that_died_in_the_middle_is_an_attempt_that_was_interrupted(box: Box) -> None:
    (box.root / "checkpoints").mkdir()
    (box.root / "checkpoints" / "attempts.json").write_text('[{"started_at": "2026-01-01T00:00:00Z"}]')
    assert box.run()[0] == 0
    assert [one["state"] for one in box.kept("attempts.json")] == ["interrupted", "succeeded"]


def test_the_second_node_knows_its_place_and_leaves_the_model_to_the_first(box: Box) -> None:
    status, said = box.asked().node("algo-2", "algo-1", "algo-10", "algo-2").run()
    assert status == 0, said
    assert "read 2 points on node 1" in said
    assert not any((box.root / "model").glob("*")) if (box.root / "model").exists() else True
    assert not (box.root / "checkpoints" / "status.json").exists()


def test_the_lock_is_installed_beside_the_image(tmp_path: Path, library: packing.Bundle) -> None:
    code = tmp_path / "code"
    shutil.copytree(JOB, code)
    (code / "requirements.txt").write_text("no-such-package-of-ekiben==1.0\n")
    box = Box(tmp_path / "box", library, code=code)
    box.channel("ekiben-wheels")
    assert box.run()[0] == 1
    assert "requirements.txt could not be installed" in box.failure
    assert "no-such-package-of-ekiben" in box.failure


def test_sagemakers_own_variables_are_there(tmp_path: Path, library: packing.Bundle) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "train.py").write_text(
        "import json, os, pathlib\n"
        "seen = {k: v for k, v in os.environ.items() if k.startswith('SM_')}\n"
        "pathlib.Path(os.environ['SM_MODEL_DIR'], 'seen.json').write_text(json.dumps(seen))\n"
        "assert pathlib.Path(os.environ['SM_CHANNEL_POINTS'], 'a.jsonl').is_file()\n"
    )
    box = Box(tmp_path / "box", library, code=code).node("algo-1", "algo-1")
    status, said = box.run()
    assert status == 0, said
    seen = json.loads((box.root / "model" / "seen.json").read_text())
    assert (seen["SM_HP_SCALE"], seen["SM_CURRENT_HOST"], json.loads(seen["SM_HOSTS"])) == ("1.0", "algo-1", ["algo-1"])


def test_a_library_that_was_changed_is_not_run(box: Box) -> None:
    (file,) = box.channel("ekiben-library").iterdir()
    file.write_bytes(file.read_bytes() + b"\0")
    status, said = box.run()
    assert status != 0
    assert "FAILED" in said
    assert not (box.root / "checkpoints").exists()


def test_the_library_needs_the_standard_library_alone(box: Box, tmp_path: Path) -> None:
    folder = packing.unpack(box.library.path, box.library.sha256, tmp_path / "unpacked")
    program = "import ekiben.aws.container, ekiben.job, sys; print(sorted({m.partition('.')[0] for m in sys.modules}))"
    env = {"PYTHONPATH": str(folder)}
    said = subprocess.run(
        [sys.executable, "-S", "-c", program], env=env, capture_output=True, text=True, check=True
    ).stdout
    assert {name for name in eval(said) if name not in sys.stdlib_module_names} - {"__main__"} == {"ekiben"}


@pytest.fixture(autouse=True)
def _writable(tmp_path: Path) -> Iterator[None]:
    yield
    for at, _, _ in os.walk(tmp_path):
        os.chmod(at, 0o700)
