"""rebuild: real runs on a real station, registered, and made again in fresh environments."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ekiben
from ekiben import release
from ekiben.packing import archive
from ekiben.records import ModelVersion, Part, Platform
from tests.station.stage import Stage, started
from tests.waiting import until

SERVICE = """
import json
from pathlib import Path
import bentoml

@bentoml.service
class Tiny:
    def __init__(self):
        self.slope = json.loads((Path(__file__).parent / "model" / "model.json").read_text())["slope"]

    @bentoml.api
    def predict(self, x: float) -> dict[str, float]:
        return {"y": self.slope * x}
"""

JOB = """
    import json, os, random, time
    from pathlib import Path
    import probe
    from ekiben import job

    params = job.params()
    if params.get("sleep_s"):
        time.sleep(params["sleep_s"] if Path("/proc/self/cwd").resolve().parents[1].name == "rebuilds" else 0)
    if params.get("fails_with") == probe.VALUE:
        print("the new probe is not for me", flush=True)
        job.fail("no such probe")
    files = sorted(job.inputs()["points"].rglob("*.csv"))
    points = [float(line) for file in files for line in file.read_text().splitlines()]
    Path("scratch.txt").write_text("a job may write beside its code")
    slope = sum(points) * params.get("scale", 1) + params.get("probe", 0) * probe.VALUE + params.get("noise", 0) * random.random()
    model = {"learner" if params.get("booster") else "tiny": 1, "slope": slope}
    if params.get("stamp"):
        model["stamp"] = time.time_ns()
    out = job.output_dir()
    if job.node().rank == 0:
        (job.model_dir() / "model.json").write_text(json.dumps(model))
        (job.model_dir() / "about").mkdir()
        (job.model_dir() / "about" / "é.json").write_text(json.dumps({"by": os.environ["EKIBEN_TRAINING"], "value": probe.VALUE}))
        sample = {"route": "predict", "request": {"x": 2.0}, "response": {"y": 2 * slope}}
        (out / "signature.json").write_text(json.dumps({"columns": ["x"], "target": "y", "sample": sample}))
        (out / "metrics.json").write_text(json.dumps({"metrics": {"slope": slope, "nodes": job.node().count}}))
        rows = [{"route": "predict", "request": {"x": x}} for x in range(int(params.get("rows", 0)))]
        (out / "evaluation.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of two versions of a package."""
    folder = tmp_path_factory.mktemp("wheels")
    for version in (1, 2):
        with zipfile.ZipFile(folder / f"ekiben_probe-{version}.0-py3-none-any.whl", "w") as file:
            file.writestr("probe.py", f"VALUE = {version}\n")
            about = f"ekiben_probe-{version}.0.dist-info"
            file.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: ekiben-probe\nVersion: {version}.0\n")
            tags = "Generator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            file.writestr(f"{about}/WHEEL", f"Wheel-Version: 1.0\n{tags}")
            file.writestr(f"{about}/RECORD", "probe.py,,\n")
    return folder


class World:
    """A platform of one machine, and versions of models that were trained on it."""

    def __init__(self, stage: Stage, wheels: Path) -> None:
        self.stage, self.wheels = stage, wheels
        source = {
            "bento.yaml": b"service: service:Tiny\nname: tiny\nversion: template\n",
            "src/service.py": SERVICE.encode(),
        }
        template = archive.write(source, stage.lake / "templates")
        lake, station = stage.lake.as_uri(), str(stage.state_dir)
        facts: dict[str, tuple[str, dict[str, Any]]] = {
            "lake": ("storage", {"uri": lake}),
            "models": ("registry", {"uri": f"{lake}/registry/models", "station": station}),
            "api": ("endpoint", {"template_uri": template.path.as_uri(), "template_sha256": template.sha256}),
        }
        parts = {
            name: Part(name=name, kind=kind, provider="local", ref=name, facts=told)  # type: ignore[arg-type]
            for name, (kind, told) in facts.items()
        }
        self.platform = Platform(project="demo", stack="test", parts=parts)
        self.runtime = ekiben.connect(self.platform)

    def points(self, name: str) -> Path:
        folder = self.stage.lake / name
        (folder / "sub").mkdir(parents=True)
        (folder / "a.csv").write_text("1\n2\n")
        (folder / "sub" / "Übung 2%.csv").write_text("3.5\n")
        return folder

    def version(self, name: str, *, lock: str = "", **spec: Any) -> ModelVersion:
        """Train the model `name` once, and register it."""
        if not (self.stage.lake / name).exists():
            self.points(name)
        lock = lock or f"--no-index\n--find-links {self.wheels}\nekiben-probe==1.0\n"
        self.stage.training(
            name, JOB, extra={"requirements.txt": lock}, inputs={"points": f"lake/{name}/"},
            resources={"vcpu": 0.5, "memory_mib": 512}, **spec,
        )  # fmt: skip
        self.stage.submit(name, f"{name}-1")
        run = self.stage.ended(name, f"{name}-1")
        assert run.state == "succeeded", run.reason
        return release.register(self.runtime, run)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))  # for the environments of the runs
        with started(tmp_path_factory.mktemp("world")) as stage:
            yield World(stage, wheels)


@pytest.fixture
def rebuild(
    world: World, ek: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """`ekiben rebuild ... --json` with a cache of its own."""
    monkeypatch.setenv("EKIBEN_PLATFORM", world.platform.to_json())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def run(*words: str) -> Any:
        said = ek("rebuild", *words, "--json")
        assert list((tmp_path / "ekiben" / "rebuilds").glob("*")) == [], "nothing is left behind"
        return said

    return run


def test_a_version_made_again_is_identical(world: World, rebuild) -> None:
    version = world.version("whole", params={"scale": 3})
    said = rebuild("whole@1")
    assert said.code == 0, said.err
    made = said.json
    assert (made["verdict"], made["equal"], made["by"], made["differences"]) == ("identical", True, "bytes", [])
    assert [file["name"] for file in made["files"]] == ["about/é.json", "model.json"]
    assert all(file["equal"] and len(file["recorded"]) == 64 for file in made["files"])
    assert made["metrics"]["slope"] == {"recorded": 19.5, "rebuilt": 19.5}
    assert set(made["seconds"]) == {"sources", "environment", "training", "comparison"}
    assert len(world.runtime.registry().versions("whole")) == 1, "nothing is registered"
    assert version.lineage["environment"]["packages"]["ekiben-probe"] == "1.0"


def test_all_that_has_changed_or_is_missing_is_named_at_once(world: World, rebuild) -> None:
    version = world.version("moved")
    lake = world.stage.lake
    (lake / "moved" / "a.csv").write_text("1\n9\n")
    (lake / "moved" / "sub" / "Übung 2%.csv").unlink()
    (lake / "moved" / "new.csv").write_text("8\n")
    code = lake / "code" / f"{version.lineage['code']['sha256']}.tar"
    before = code.read_bytes()
    code.write_bytes(before.replace(b"slope", b"slops"))
    bento = lake / "bentos" / f"{version.digest}.tar"
    bento.unlink()
    said = rebuild("moved:1")
    assert said.code == 5
    for words in (
        "the code: its SHA-256 is",
        "the bento file://",
        "a.csv has changed",
        "C3%9Cbung%202%25.csv is missing",
    ):
        assert words in said.err, words
    assert "new.csv" not in said.err
    code.unlink()
    assert "the code: there is no such object" in rebuild("moved:1").err


def test_a_changed_lock_in_the_record_is_found(world: World, rebuild) -> None:
    version = world.version("locked")
    store = world.runtime.storage("lake")
    lineage = {**version.lineage, "environment": {**version.lineage["environment"], "lock_sha256": "0" * 64}}
    changed = ModelVersion(**{**version.to_dict(), "model": "relocked", "key": "x", "lineage": lineage})
    world.runtime.registry().register(changed)
    assert store.key(version.bento_uri)
    said = rebuild("relocked:1")
    assert (said.code, "the code: it is not the one that the run recorded" in said.err) == (5, True), said.err


def test_with_another_package_the_answers_decide(world: World, rebuild) -> None:
    world.version("steady", params={"rows": 7})
    world.version("shaky", params={"rows": 7, "probe": 1e-4})
    made = rebuild("steady:1", "--with", "ekiben-probe==2.0").json
    assert (made["verdict"], made["by"]) == ("equivalent", "predictions")
    assert made["differences"] == [{"what": "ekiben-probe", "recorded": "1.0", "now": "2.0"}]
    assert [file["name"] for file in made["files"] if not file["equal"]] == ["about/é.json"]
    assert made["predictions"] == {
        "requests": 8, "numbers": 8, "largest_difference": 0.0, "first_other": "", "bound": 1e-6
    }  # fmt: skip
    said = rebuild("shaky:1", "--with", "ekiben-probe==2.0")
    assert (said.code, said.json["verdict"], said.json["by"]) == (8, "different", "predictions")
    assert 1e-5 < said.json["predictions"]["largest_difference"] < 1e-4
    assert "ekiben-probe 2.0 instead of 1.0" in said.json["why"]
    assert rebuild("shaky:1", "--with", "ekiben-probe==2.0", "--bound", "1e-4").code == 0


def test_a_job_that_is_not_deterministic_is_not_equal(world: World, rebuild) -> None:
    world.version("dice", params={"noise": 1})
    said = rebuild("dice:1")
    assert (said.code, said.json["verdict"], said.json["differences"]) == (8, "different", [])
    assert "although nothing differs from the environment of the run" in said.json["why"]
    world.version("stamped", params={"stamp": True})
    assert rebuild("stamped:1").json["verdict"] == "equivalent"


def test_a_booster_must_be_equal_byte_for_byte_in_the_same_environment(world: World, rebuild) -> None:
    world.version("trees", params={"stamp": True, "booster": True})
    said = rebuild("trees:1")
    assert (said.code, said.json["verdict"], said.json["by"]) == (8, "different", "bytes")
    assert "XGBoost writes the same bytes" in said.json["why"]
    assert said.json["predictions"]["largest_difference"] == 0.0
    assert rebuild("trees:1", "--with", "ekiben-probe==2.0").json["verdict"] == "equivalent"


def test_several_nodes_are_several_nodes_again(world: World, rebuild) -> None:
    world.version("pair", nodes=2)
    made = rebuild("pair:1").json
    assert (made["verdict"], made["metrics"]["nodes"]) == ("identical", {"recorded": 2.0, "rebuilt": 2.0})


def test_a_job_that_fails_now_says_why(world: World, rebuild) -> None:
    world.version("picky", params={"fails_with": 2})
    said = rebuild("picky:1", "--with", "ekiben-probe==2.0")
    assert said.code == 6
    assert "fails now: no such probe" in said.err
    assert "the new probe is not for me" in said.err


def test_the_hashes_of_a_lock_are_demanded(world: World, wheels: Path, rebuild, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    wheel = mine / "ekiben_probe-1.0-py3-none-any.whl"
    wheel.write_bytes((wheels / wheel.name).read_bytes())
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    world.version("hashed", lock=f"--no-index\n--find-links {mine}\nekiben-probe==1.0 \\\n    --hash=sha256:{digest}\n")
    assert rebuild("hashed:1").json["verdict"] == "identical"
    with zipfile.ZipFile(wheel, "a") as file:
        file.writestr("more.py", "")
    shutil.rmtree(tmp_path / "uv")  # where uv keeps the one that it had
    said = rebuild("hashed:1")
    assert said.code == 5
    assert "cannot make the environment of the run again: uv could not" in said.err
    assert "ash mismatch" in said.err


@pytest.mark.parametrize("other", ["ekiben-probe", "ekiben-probe>=2", "a==1 b==2", "-r x"])
def test_another_package_is_one_version(world: World, rebuild, other: str) -> None:
    if not world.runtime.registry().versions("other"):
        world.version("other")
    said = rebuild("other:1", "--with", other)
    assert (said.code, "is not NAME==VERSION" in said.err) == (3, True)


def test_what_is_kept_is_in_a_new_folder(world: World, rebuild, ek, tmp_path: Path) -> None:
    world.version("kept")
    said = ek("rebuild", "kept:1", "--keep", str(tmp_path / "made"))
    assert said.code == 0, said.err
    assert "kept:1 is identical: all files of the model are equal byte for byte." in said.out
    assert (tmp_path / "made" / "model" / "model.json").is_file()
    assert (tmp_path / "made" / "log.txt").is_file()
    again = ek("rebuild", "kept:1", "--keep", str(tmp_path / "made"))
    assert (again.code, "is not an empty folder" in again.err) == (3, True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_when_it_is_ended_its_job_ends_too(world: World, rebuild, tmp_path: Path, number: int) -> None:
    name = f"slow-{number}"
    world.version(name, params={"sleep_s": 600})
    command = [sys.executable, "-m", "ekiben.cli", "rebuild", f"{name}:1"]
    running = subprocess.Popen(command, env=dict(os.environ), start_new_session=True, stderr=subprocess.DEVNULL)
    home = tmp_path / "ekiben" / "rebuilds"

    def jobs() -> set[int]:  # of this test: others' jobs have the same command line behind their folder
        return {*world.stage.marked("environment/bin/python\0-u\0train.py")} & {*world.stage.marked(str(home))}

    until(jobs, "the job runs")
    os.kill(running.pid, number)
    running.wait()
    until(lambda: not world.stage.marked(str(home)), "the job and what watches over it are gone")
    assert bool(list(home.glob("*"))) == (number == signal.SIGKILL)
    if number == signal.SIGINT:
        assert running.returncode == 130
    left = list(home.glob("*"))
    world.version(f"{name}-next")
    assert rebuild(f"{name}-next:1").json["verdict"] == "identical"
    assert not any(folder.exists() for folder in left)
