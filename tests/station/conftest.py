"""A real station in a folder of its own, and small real bentos."""

from __future__ import annotations

import json
import os
import signal
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ekiben.packing.archive import Bundle, files, write
from ekiben.records import ModelVersion
from ekiben.station import launch
from ekiben.station.client import Answer, Client
from tests.waiting import until

SERVICE = """
import asyncio, json, os, sys
from pathlib import Path
from typing import AsyncGenerator
import bentoml

if flag := os.environ.get("FLAG"):
    if Path(flag).exists():
        raise RuntimeError("the flag is up")

@bentoml.service
class Probe:
    def __init__(self):
        self.factor = json.loads((Path(__file__).parent / "model" / "factor.json").read_text())
        self.ballast = []

    @bentoml.api
    async def predict(self, x: float) -> float:
        return x * self.factor

    @bentoml.api
    async def pid(self, sleep_s: float = 0) -> int:
        await asyncio.sleep(sleep_s)
        return os.getpid()

    @bentoml.api
    async def crash(self) -> int:
        os._exit(3)

    @bentoml.api
    async def stream(self, count: int, crash_at: int = -1) -> AsyncGenerator[str, None]:
        for number in range(count):
            await asyncio.sleep(0.3 if number == crash_at else 0)
            if number == crash_at:
                os._exit(3)
            yield f"{number}\\n"

    @bentoml.api
    async def env(self, name: str) -> str:
        return os.environ.get(name, "")

    @bentoml.api
    async def seen(self, ctx: bentoml.Context) -> dict[str, str]:
        return dict(ctx.request.headers)

    @bentoml.api
    async def allocate(self, mib: int) -> int:
        self.ballast.append(b"x" * (mib << 20))
        return os.getpid()
"""


def bento(folder: Path, *, factor: float = 2.0, service: str = SERVICE, requirements: str = "") -> Bundle:
    """A bento made by hand: its archive and digest."""
    source = folder / "bento"
    for path, text in {
        "bento.yaml": "service: service:Probe\nname: probe\nversion: '1'\n",
        "env/python/requirements.txt": requirements,
        "src/service.py": textwrap.dedent(service),
        "src/model/factor.json": json.dumps(factor),
    }.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(text, encoding="utf-8")
    (folder / "tars").mkdir(exist_ok=True)
    return write(files(source), folder / "tars")


def version(number: int, packed: Bundle) -> ModelVersion:
    return ModelVersion(
        model="probe", version=number, key=f"run-{number}", digest=packed.sha256, bento_uri=packed.path.as_uri(),
        created_at="2026-01-01T00:00:00Z", created_by="a test",
    )  # fmt: skip


@dataclass
class Station:
    """A running station: a client of it, and its state directory."""

    state_dir: Path
    client: Client

    def pid(self) -> int:
        return int((self.state_dir / "station.lock").read_text("ascii"))

    def kill(self) -> None:
        """kill -9 of the station's process, and of nothing else."""
        os.kill(self.pid(), signal.SIGKILL)
        until(lambda: not launch.running(self.state_dir), "the station is gone")

    def start(self, port: int = 0) -> Client:
        self.client = launch.ensure(self.state_dir, project="demo", stack="test", port=port)
        return self.client

    def endpoint(self, name: str, **spec: Any) -> None:
        self.client.request(
            "PUT",
            f"/v1/resources/endpoint/{name}",
            {"spec": {"spec": {"model": "probe@champion", "bento": "x", **spec}}},
        )

    def deploy(self, name: str, of: ModelVersion, tag: str = "") -> str:
        sent = {"version": of.to_dict(), "tag": tag}
        return str(self.client.request("POST", f"/v1/endpoints/{name}/revisions", sent, timeout_s=120)["id"])

    def shift(self, name: str, **weights: float) -> None:
        given = {id.replace("_", "-"): weight for id, weight in weights.items()}
        self.client.request("PUT", f"/v1/endpoints/{name}/weights", {"weights": given})

    def revisions(self, name: str) -> list[dict[str, Any]]:
        return list(self.client.request("GET", f"/v1/endpoints/{name}/revisions")["revisions"])

    def released(self, name: str, of: ModelVersion, **spec: Any) -> str:
        """An endpoint with all traffic on a revision of `of`."""
        self.endpoint(name, **spec)
        id = self.deploy(name, of)
        self.shift(name, **{id: 100})
        return id

    def call(self, name: str, route: str = "predict", body: Any = None) -> Answer:
        data = json.dumps({"x": 3} if body is None else body).encode()
        return self.client.send("POST", f"/endpoints/{name}/{route}", data)


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    """A station of its own for one test."""
    running = Station(tmp_path / "state", Client(tmp_path / "state"))
    running.start()
    yield running
    launch.stop(running.state_dir)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    """A station that the tests of a module share; each takes names of its own."""
    state_dir = tmp_path_factory.mktemp("host") / "state"
    running = Station(state_dir, Client(state_dir))
    running.start()
    yield running
    launch.stop(running.state_dir)


@pytest.fixture(scope="session")
def doubling(tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    return version(1, bento(tmp_path_factory.mktemp("doubling"), factor=2.0))


@pytest.fixture(scope="session")
def tripling(tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    return version(2, bento(tmp_path_factory.mktemp("tripling"), factor=3.0))


def at_once(count: int, call: Callable[[int], Answer]) -> list[Answer]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(call, range(count)))


def to_zero(host: Station, name: str) -> None:
    until(lambda: not any(one["instances"] for one in host.revisions(name)), "it scales to zero")


def sent(answer: Answer) -> Any:
    assert answer.status == 200, answer.body
    return answer.json()
