"""A real station in a folder of its own, and short ways to declare and use what runs on it."""

from __future__ import annotations

import contextlib
import os
import signal
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ekiben import FunctionSpec, TrainingSpec
from ekiben.packing import archive
from ekiben.records import Event, Job, Platform, Run
from ekiben.station import launch
from ekiben.station.client import Client
from tests.waiting import until


class Stage:
    """A station, and a bucket `lake` in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state_dir = root / "state"
        self.start()
        self.lake = self.bucket("lake")

    def start(self) -> None:
        self.client: Client = launch.ensure(self.state_dir, project="demo", stack="test")

    def kill(self) -> None:
        """kill -9 of the station's process, and of nothing else."""
        os.kill(int((self.state_dir / "station.lock").read_text("ascii")), signal.SIGKILL)
        until(lambda: not launch.running(self.state_dir), "the station is gone")

    def bucket(self, name: str) -> Path:
        self.client.request("PUT", f"/v1/resources/bucket/{name}", {"spec": {}})
        return self.state_dir / "buckets" / name

    def code(self, files: Mapping[str, str]) -> dict[str, Any]:
        bundle = archive.write(
            {name: textwrap.dedent(text).encode() for name, text in files.items()}, self.lake / "code"
        )
        return {"code_uri": bundle.path.as_uri(), "code_sha256": bundle.sha256}

    def function(
        self, name: str, code: str, *, on: tuple[Any, ...] = (), uses: tuple[str, ...] = (), **spec: Any
    ) -> str:
        """Declare a function; returns its name."""
        platform = Platform(project="demo", stack="test")
        body = {
            "spec": FunctionSpec(source="functions/x", on=on, **spec).model_dump(), **self.code({"main.py": code}),
            "platform": platform.to_json(), "bucket_uris": {"lake": self.lake.as_uri()}, "uses": list(uses),
        }  # fmt: skip
        self.client.request("PUT", f"/v1/resources/function/{name}", {"spec": body})
        return name

    def training(self, name: str, code: str, *, extra: Mapping[str, str] | None = None, **spec: Any) -> str:
        """Declare a training job; returns its name."""
        body = {
            "spec": TrainingSpec(**{"source": "training_jobs/x", "grace_s": 1, "timeout_s": 120, **spec}).model_dump(),
            "storage_uri": self.lake.as_uri(), "code": {"commit": "abc", "dirty": False},
            "input_uris": {key: f"{self.lake.parent.as_uri()}/{where}" for key, where in spec.get("inputs", {}).items()},
            **self.code({"train.py": code, **(extra or {})}),
        }  # fmt: skip
        self.client.request("PUT", f"/v1/resources/training/{name}", {"spec": body})
        return name

    def publish(self, id: str, type: str = "Custom", **more: Any) -> None:
        self.client.request("POST", "/v1/events", Event(id=id, type=type, source="test", **more).to_dict())

    def events(self, type: str) -> list[dict[str, Any]]:
        return [one for one in self.client.request("GET", "/v1/events")["events"] if one["type"] == type]

    def deliveries(self, function: str, state: str = "") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.request("GET", f"/v1/functions/{function}/deliveries?state={state}")[
            "deliveries"
        ]
        return found

    def settled(self, function: str, count: int) -> list[dict[str, Any]]:
        """Its deliveries, when `count` of them are done or dead."""

        def ended() -> list[dict[str, Any]]:
            found = self.deliveries(function)
            return found if len([one for one in found if one["state"] in ("done", "dead")]) >= count else []

        return list(until(ended, f"{count} deliveries of {function}"))

    def submit(self, training: str, id: str, **job: Any) -> Run:
        return Run.from_dict(self.client.request("POST", f"/v1/trainings/{training}/runs", Job(id=id, **job).to_dict()))

    def run(self, training: str, id: str) -> Run:
        return Run.from_dict(self.client.request("GET", f"/v1/trainings/{training}/runs/{id}"))

    def running(self, training: str, id: str) -> Run:
        return until(lambda: (run := self.run(training, id)).state == "running" and run, f"the run {id} runs")

    def ended(self, training: str, id: str) -> Run:
        return until(lambda: (run := self.run(training, id)).ended and run, f"the run {id} ends")

    def cancel(self, training: str, id: str) -> Run:
        return Run.from_dict(self.client.request("POST", f"/v1/trainings/{training}/runs/{id}/cancel"))

    def log(self, training: str, id: str) -> str:
        return self.client.send("GET", f"/v1/trainings/{training}/runs/{id}/log").body.decode()

    def gone(self, words: str) -> None:
        """Wait until no living process has `words` in its command line: one that was killed may still have to be told."""
        until(lambda: not self.marked(words), f"nothing of {words} lives")

    def marked(self, words: str) -> list[int]:
        """The living processes that have `words` in their command line."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and words.encode() in (entry / "cmdline").read_bytes():
                    state = (entry / "stat").read_bytes().rpartition(b")")[2].split()[0]
                    if state != b"Z":
                        found.append(int(entry.name))
        return found


@contextlib.contextmanager
def started(root: Path) -> Iterator[Stage]:
    """A stage, and nothing of it left afterwards."""
    stage = Stage(root)
    try:
        yield stage
    finally:
        if not launch.running(stage.state_dir):
            stage.start()
        for resource in stage.client.request("GET", "/v1/resources")["resources"]:
            if resource["kind"] in ("function", "training"):
                stage.client.request("DELETE", f"/v1/resources/{resource['kind']}/{resource['name']}")
        launch.stop(stage.state_dir)


@contextlib.contextmanager
def with_points(root: Path) -> Iterator[Stage]:
    """A station with an input of two files, and two that are none."""
    with started(root) as stage:
        points = stage.lake / "points"
        (points / "sub").mkdir(parents=True)
        (points / "a.csv").write_text("1\n2\n")
        (points / "sub" / "Übung 2%.csv").write_text("3\n")
        (points / "half.csv.part").write_text("?")
        (points / ".hidden").write_text("?")
        yield stage
