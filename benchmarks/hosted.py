"""The example's endpoint on a station of its own: trained, packed, deployed, and nothing left of it at the end."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ekiben.packing import pack, template
from ekiben.records import ModelVersion
from ekiben.station import launch
from ekiben.station.client import Client

__all__ = ["JOB", "Hosted", "Packed", "census", "hosted", "memory_mib", "packed", "tree", "until"]

ROOT = Path(__file__).resolve().parents[1]
JOB = ROOT / "training_jobs" / "employment"
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Packed:
    """The example's bento with a model in it, and a request that it answers."""

    version: ModelVersion
    route: str
    request: bytes
    response: Any


@dataclass
class Hosted:
    """A running station."""

    state_dir: Path
    client: Client

    @property
    def pid(self) -> int:
        return int((self.state_dir / "station.lock").read_text("ascii"))

    @property
    def port(self) -> int:
        return int(self.client.url.rpartition(":")[2])

    @property
    def token(self) -> str:
        return (self.state_dir / "token").read_text("ascii")

    def endpoint(self, name: str, of: Packed, **spec: Any) -> str:
        """An endpoint with all its traffic on `of`; the revision's id."""
        whole = {"model": f"{of.version.model}@champion", "bento": "bentos/employment", **spec}
        self.client.request("PUT", f"/v1/resources/endpoint/{name}", {"spec": {"spec": whole}})
        sent = {"version": of.version.to_dict(), "tag": ""}
        id = str(self.client.request("POST", f"/v1/endpoints/{name}/revisions", sent, timeout_s=300)["id"])
        self.client.request("PUT", f"/v1/endpoints/{name}/weights", {"weights": {id: 100}})
        return id

    def instances(self, name: str) -> int:
        shown = self.client.request("GET", f"/v1/endpoints/{name}/revisions")["revisions"]
        return sum(int(revision["instances"]) for revision in shown)

    def call(self, name: str, of: Packed) -> float:
        """Seconds from the connection to the answer's last byte. Raises when it is not the right one."""
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        try:
            connection.request("POST", f"/endpoints/{name}/{of.route}", of.request, headers)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        took_s = time.perf_counter() - began
        if answer.status != 200 or json.loads(body) != of.response:
            raise RuntimeError(f"{answer.status} {body[:200]!r}")
        return took_s


@contextlib.contextmanager
def hosted() -> Iterator[Hosted]:
    """A station in a temporary folder; stopped, and its folder removed, at the end."""
    with tempfile.TemporaryDirectory(prefix="ekiben-bench-") as folder:
        state_dir = Path(folder) / "state"
        try:
            yield Hosted(state_dir, launch.ensure(state_dir, project="bench", stack="local"))
        finally:
            launch.stop(state_dir)
            for at, _, _ in os.walk(state_dir):
                os.chmod(at, 0o700)  # noqa: S103 - unpacked bentos are read-only, folders too


@contextlib.contextmanager
def packed() -> Iterator[Packed]:
    """The example's job run by hand on its data, its model packed with the example's bento."""
    with tempfile.TemporaryDirectory(prefix="ekiben-bench-") as name:
        folder = Path(name)
        trained = _trained(folder)
        signature = json.loads((trained / "output" / "signature.json").read_text("utf-8"))
        made = pack(template(ROOT / "bentos" / "employment").path, trained / "model", signature)
        path = folder / "bento.tar"
        shutil.copyfile(made.path, path)
        version = ModelVersion(
            model="employment", version=1, key="bench", digest=made.sha256, bento_uri=path.as_uri(),
            created_at="2026-01-01T00:00:00Z", created_by="a benchmark",
        )  # fmt: skip
        sample = signature["sample"]
        yield Packed(version, sample["route"], json.dumps(sample["request"]).encode(), sample["response"])


def until(true: Callable[[], Any], what: str, within_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            raise RuntimeError(f"it never came true: {what}")
        time.sleep(0.02)


def tree(pid: int) -> list[int]:
    """A process and all that it has started."""
    found, queue = [], [pid]
    while queue:
        found.append(queue.pop())
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{found[-1]}/task").iterdir():
                queue += map(int, (task / "children").read_text("ascii").split())
    return found


def memory_mib(pids: list[int]) -> float:
    """The memory of processes, with pages that they share counted once."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text("ascii"), re.MULTILINE)
            total += int(found[1]) if found else 0
    return total / 1024


def census() -> Path:
    """The folder of the example's data, fetched when it is not there."""
    spec = importlib.util.spec_from_file_location("employment_fetch", JOB / "fetch.py")
    assert spec is not None
    assert spec.loader is not None
    fetch = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fetch)
    found: Path = fetch.fetch()
    return found


def _trained(folder: Path) -> Path:
    env = {name: value for name, value in os.environ.items() if not name.startswith("EKIBEN_")}
    for name in ("model", "output", "checkpoints"):
        (folder / name).mkdir()
    env |= {
        "EKIBEN_RUN_ID": "bench", "EKIBEN_TRAINING": "employment", "EKIBEN_PARAMS": "{}",
        "EKIBEN_INPUT_CENSUS": str(census()), "EKIBEN_MODEL_DIR": str(folder / "model"),
        "EKIBEN_OUTPUT_DIR": str(folder / "output"), "EKIBEN_CHECKPOINT_DIR": str(folder / "checkpoints"),
        "EKIBEN_NODE_RANK": "0", "EKIBEN_NODE_COUNT": "1", "OMP_WAIT_POLICY": "PASSIVE",
    }  # fmt: skip
    done = subprocess.run([sys.executable, "train.py"], cwd=JOB, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the example's job failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return folder
