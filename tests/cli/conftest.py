"""The command line in this process, against `shelf`, a provider that a third party brings by entry point."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import ekiben
from ekiben.records import Event, ModelVersion, Part, Platform, now

from .shelf import runtime as shelf

PARTS = {"lake": "storage", "models": "registry", "income": "training", "income-api": "endpoint", "retrain": "function"}


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def ek(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run `ekiben ...`: its exit code, stdout and stderr."""
    from ekiben.cli import main

    def run(*words: str) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(words)
        return Said(int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, which is the current folder."""
    for name in ("EKIBEN_PLATFORM", "EKIBEN_STACK", "EKIBEN_DEBUG", "PULUMI_BACKEND_URL"):
        monkeypatch.delenv(name, raising=False)
    project = tmp_path / "project"
    project.mkdir()
    (project / "Pulumi.yaml").write_text("name: shop\nruntime: python\n")
    monkeypatch.chdir(project)
    return project


@pytest.fixture
def platform(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    """The stack `local` of `folder` has a platform whose provider is `shelf`."""
    info = tmp_path / "site" / "shelf-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shelf\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ekiben.providers]\nshelf = tests.cli.shelf\n")
    monkeypatch.syspath_prepend(str(info.parent))
    ekiben.providers.cache_clear()
    shelf.reset()
    parts = {
        name: Part(
            name=name,
            kind=kind,
            provider="shelf",
            ref=f"shop/local/{kind}/{name}",
            facts={"url": f"http://127.0.0.1:1/{name}"},
        )
        for name, kind in PARTS.items()
    }
    parts["income-api"].facts["model"] = "income@champion"
    made = Platform(project="shop", stack="local", parts=parts)
    state = folder / ".ekiben" / "local"
    state.mkdir(parents=True)
    (state / "platform.json").write_text(made.to_json(), encoding="utf-8")
    yield made
    monkeypatch.undo()
    ekiben.providers.cache_clear()


@pytest.fixture
def version() -> Callable[..., ModelVersion]:
    """Put a version in the registry."""

    def make(number: int = 1, state: str = "approved", aliases: tuple[str, ...] = (), **more: Any) -> ModelVersion:
        sample = {"route": "predict", "request": {"a": 1}, "response": {"echo": {"a": 1}}}
        made = ModelVersion(
            model="income", version=number, key=f"run-{number}", digest=f"{number}" * 64,
            bento_uri=f"shelf://lake/bentos/{number}.tar", created_at=now(), created_by="ana", state=state,
            aliases=list(aliases), **{"metrics": {"auc": 0.9}, "sample": sample, **more},
        )  # fmt: skip
        shelf.STATE["versions"].insert(0, made)
        return made

    return make


@pytest.fixture
def delivery() -> Callable[..., dict[str, Any]]:
    """Put a delivery in the function's queue."""

    def make(id: str, state: str, type: str = "NewData", error: str = "") -> dict[str, Any]:
        event = Event(id=f"event-{id}", type=type, source="lake", subject="données/é 1.csv", time=now())
        made = {"id": id, "event": event.to_dict(), "state": state, "attempts": 1, "error": error, "log_uri": ""}
        shelf.STATE["deliveries"].append(made)
        return made

    return make
