"""The rig: one platform per provider, stood up by the real engine, that every conformance test runs on.

Tests take `rig`, never a class of a provider. EKIBEN_RIGS names the rigs (default: local). EKIBEN_LIVE names a provider whose
rig stands on a real account instead (docs/aws.md).
"""

from __future__ import annotations

import importlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import ekiben as ek
from tests.waiting import until

LIVE = os.environ.get("EKIBEN_LIVE", "")
RIGS = (os.environ.get("EKIBEN_RIGS") or LIVE or "local").split(",")


class Rig:
    """A provider's platform. `up` makes it and returns the Platform; `down` destroys it; `crash` kills what hosts it."""

    provider: str

    def __init__(self) -> None:
        self.platform: ek.Platform = self.up()
        self.runtime = self.connect()
        self._served: ek.ModelVersion | None = None

    def up(self) -> ek.Platform:
        raise NotImplementedError

    def down(self) -> None:
        raise NotImplementedError

    def again(self) -> int:
        """`up` once more; returns how many resources it changed."""
        raise NotImplementedError

    def crash(self) -> None:
        """Kill the host as a power cut would, and have it back. Only where there is one (`hosted`)."""
        raise NotImplementedError

    def rest(self, endpoint: str) -> None:
        """Have no instance of an endpoint left, as when nobody has called it for long."""
        raise NotImplementedError

    def address(self, endpoint: str) -> tuple[str, str]:
        """Where anybody calls an endpoint, and the Host to say there where that is another name."""
        return str(self.platform.parts[endpoint].facts["url"]), ""

    def take_away(self, run: ek.Run) -> None:
        """Stop a run's job as a provider does that takes its capacity back: SIGTERM, the grace, SIGKILL."""
        raise NotImplementedError

    # Why no MLflow server shows the versions of its registry; empty where one does.
    without_mlflow = "the provider runs none"
    hosted = False
    # Are requests held while all instances are busy?
    holds = True
    # Is an instance free when a call in it has taken too long, or only when the call itself has ended?
    ends_calls = True

    def connect(self) -> ek.Runtime:
        return ek.connect(self.platform)

    def seen(self, type: str) -> list[dict[str, Any]]:
        """The events of a type that the function `witness` has seen."""
        lake = self.connect().storage("lake")
        return [json.loads(lake.get(found.key)) for found in lake.list(f"seen/{type}/")]

    def train(self, training: str = "tiny", *, id: str = "", **params: Any) -> ek.Run:
        """Submit a run and wait for its end."""
        bound = self.runtime.training(training)
        run = bound.submit(ek.Job(id=id or f"{training}-{uuid.uuid4().hex[:8]}", params=params))
        return until(lambda: r if (r := bound.run(run.id)).ended else None)

    def version(self, **params: Any) -> ek.ModelVersion:
        """A new approved version of the model `tiny`, really trained and packed."""
        from ekiben.release import register

        run = self.train(**params)
        assert run.state == "succeeded", run.reason
        version = register(self.runtime, run, endpoint="tiny-api", registry="models")
        return self.runtime.registry("models").decide(version.id, "approved", who="rig", why="test")

    @property
    def served(self) -> ek.ModelVersion:
        """A version that is released on both endpoints, made once."""
        from ekiben.release import release

        if self._served is None:
            self._served = self.version(scale=1.0)
            for endpoint in ("tiny-api", "narrow"):
                release(self.runtime, self._served.id, endpoint=endpoint, registry="models", who="rig", why="test")
        return self._served


# Beside a stack's `up` the first rig of its kind makes an image with MLflow.
LIMITS_S = {"kubernetes": 1800}
PARAMS = [pytest.param(one, marks=pytest.mark.timeout(LIMITS_S[one]) if one in LIMITS_S else ()) for one in RIGS]


@pytest.fixture(scope="session", params=PARAMS)
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with standing(request.param) as made:
        yield made


@contextmanager
def standing(name: str) -> Iterator[Rig]:
    """The rig of that name, with data in its storage, for as long as the block lasts."""
    module = importlib.import_module(f"..rigs.{name}", __package__)
    made: Rig = module.make(Rig)
    try:
        lake = made.runtime.storage("lake")
        lake.put("points/a.jsonl", b'{"x": 1, "y": 3}\n{"x": 2, "y": 6}\n')
        lake.put("points/b.jsonl", b'{"x": 3, "y": 9}\n')
        yield made
    finally:
        made.down()


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """A key of its own for each test."""
    return f"test/{request.node.originalname}/{uuid.uuid4().hex[:8]}"


@pytest.fixture
def model() -> str:
    """The name of a model of its own for each test."""
    return f"model-{uuid.uuid4().hex[:8]}"
