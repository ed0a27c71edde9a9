"""A bento with every kind of batch route, and a platform of folders: no station, no engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ekiben import packing
from ekiben.batch.models import Model
from ekiben.batch.places import found
from ekiben.batch.run import Batch, run
from ekiben.batch.sources import Files
from ekiben.records import ModelVersion, Part, Platform, now
from ekiben.runtime import connect
from tests.cli.conftest import ek  # noqa: F401

T = TypeVar("T")
SIGNATURE = {"columns": ["x", "größe"], "target": "y"}


@pytest.fixture(scope="session")
def bento(tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], packing.Bundle]:
    """The bento of a model with this factor, built once."""
    built = packing.template(Path(__file__).parent / "bento")
    made: dict[float, packing.Bundle] = {}

    def make(factor: float) -> packing.Bundle:
        if factor not in made:
            folder = tmp_path_factory.mktemp("model")
            (folder / "model.json").write_text(json.dumps({"factor": factor}))
            into = tmp_path_factory.mktemp("bentos")
            made[factor] = packing.pack(built.path, folder, SIGNATURE, sha256=built.sha256, into=into)
        return made[factor]

    return make


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bentos are unpacked here, once for all tests of this folder."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def not_the_users_own(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set for each test by itself: a worker of the test runner has others after it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


@pytest.fixture
def model(bento) -> Model:
    built = bento(2.0)
    return Model("sums:1", built.sha256, built.path.as_uri(), SIGNATURE)


@pytest.fixture
def batch(model, tmp_path) -> Callable[..., dict[str, Any]]:
    """Run a batch; `source` is a path, or several, or a source."""

    def go(source: Any, output: str | Path = "out.parquet", **options: Any) -> dict[str, Any]:
        if isinstance(source, str | Path):
            source = Files(found([str(source)], None))
        if isinstance(output, Path) or "://" not in output:
            output = tmp_path / output
        asked = {"model": model, "workers": 1, "route": "items", **options}
        return run(Batch(source=source, output=output, **asked))

    return go


@pytest.fixture
def platform(bento, tmp_path, monkeypatch) -> Path:
    """A platform with the storage `lake` and two versions of the model `sums` in its registry: the folder of `lake`.

    The model `free` is the same, with a signature that names no columns: a frame is given all but the keys.
    """
    lake = tmp_path / "platform" / "lake"
    lake.mkdir(parents=True)
    parts = [
        Part(name="lake", kind="storage", provider="local", ref="lake", facts={"uri": lake.as_uri()}),
        Part(
            name="models", kind="registry", provider="local", ref="models",
            facts={"uri": f"{lake.as_uri()}/registry/models"},
        ),
    ]  # fmt: skip
    record = Platform(project="shop", stack="test", parts={part.name: part for part in parts})
    path = tmp_path / "platform.json"
    path.write_text(record.to_json())
    models = connect(path).registry("models")
    for name, factor, signature in (("sums", 2.0, SIGNATURE), ("sums", 3.0, SIGNATURE), ("free", 2.0, {})):
        built = bento(factor)
        models.register(
            ModelVersion(
                model=name, version=0, key=f"run-{name}-{factor}", digest=built.sha256, bento_uri=built.path.as_uri(),
                created_at=now(), created_by="ana", signature=signature,
            )
        )  # fmt: skip
    models.alias("sums:1", "champion", who="ana", why="it is the first")
    monkeypatch.setenv("EKIBEN_PLATFORM", str(path))
    monkeypatch.chdir(tmp_path)
    return lake


def start(*words: str | Path, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ekiben.cli", "invoke", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ), **options,
    )  # fmt: skip


def invoke(*words: str | Path, code: int = 0, **options: Any) -> tuple[str, str]:
    """Run `ekiben invoke` to its end; what it printed."""
    process = start(*words, **options)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
    return out, err


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    text = "\n".join(",".join("" if value is None else str(value) for value in row) for row in [columns, *rows])
    path.write_text(text + "\n", encoding="utf-8")
    return path
