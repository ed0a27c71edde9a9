"""A private project for each test, and the Pulumi engine on it, as a user's own would be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ekiben.engine import pulumi_cli
from ekiben.station import launch

CONFIG = "config:\n  ekiben:provider: local\n"
BIN = Path(sys.executable).parent


class Project:
    """A small project: `program` is its infra/__main__.py."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "Pulumi.yaml").write_text("name: small\nruntime: python\nmain: infra/\n")
        (root / "infra").mkdir()
        self.config("dev")
        handler = root / "functions" / "hello" / "main.py"
        handler.parent.mkdir(parents=True)
        handler.write_text("def handler(event, runtime):\n    return 1\n")
        job = root / "training_jobs" / "job" / "train.py"
        job.parent.mkdir(parents=True)
        job.write_text("print(1)\n")

    def config(self, stack: str, text: str = CONFIG) -> None:
        (self.root / f"Pulumi.{stack}.yaml").write_text(text)

    def program(self, text: str) -> None:
        (self.root / "infra" / "__main__.py").write_text(f"import ekiben as ek\n\ncloud = ek.provider()\n{text}\n")

    def state(self, stack: str = "dev") -> Path:
        return self.root / ".ekiben" / stack

    def ekiben(self, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "ekiben.cli", *words, **options)

    def run(self, *command: str, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.root, text=True, capture_output=True, timeout=240, stdin=subprocess.DEVNULL, **options
        )


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("PULUMI_", "EKIBEN_")) and name != "PULUMI_SKIP_UPDATE_CHECK":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def cli() -> pulumi_cli.Cli:
    return pulumi_cli.ensure(Path(__file__).parents[2], print)


@pytest.fixture
def bare(tmp_path: Path) -> Project:
    """A project without an engine."""
    return Project(tmp_path.resolve())


@pytest.fixture
def project(cli: pulumi_cli.Cli, bare: Project) -> Iterator[Project]:
    """A project that the engine works on; no station of it is left behind."""
    yield bare
    for state in (bare.root / ".ekiben").glob("*"):
        launch.stop(state)


@pytest.fixture
def said() -> tuple[list[str], Callable[[str], None]]:
    lines: list[str] = []
    return lines, lines.append
