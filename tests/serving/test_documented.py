"""The examples of docs/serving.md, as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Served, folder, served

DOCS = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
SECTION = DOCS.partition("## Arrays and tables that are no JSON")[2].partition("## Batching")[0]
BLOCKS = [(kind, text) for kind, text in re.findall(r"```(\w+)\n(.*?)```", SECTION, re.DOTALL)]
SERVICE = next(text for _, text in BLOCKS if "@bentoml.service" in text)
IMPORTS = """
from typing import Annotated
import bentoml
import numpy as np
import pandas as pd
from bentoml.validators import DType, Shape

"""
HERE = "127.0.0.1:3000"


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("documented")
    of_bento = {"bento.yaml": "service: service:Grid\nname: grid\nversion: '1'\n"}
    with served(folder(root / "bento", IMPORTS + SERVICE, files=of_bento), root / "worker") as started:
        yield started


def ran(command: list[str], cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("code", [text for kind, text in BLOCKS if kind == "python" and text != SERVICE])
def test_what_python_prints_is_what_the_comment_says(worker: Served, tmp_path: Path, code: str) -> None:
    expected = re.findall(r"# (.*)$", code, re.MULTILINE)
    assert (
        ran([sys.executable, "-c", code.replace(HERE, f"127.0.0.1:{worker.port}")], tmp_path).splitlines() == expected
    )


@pytest.mark.parametrize("session", [text for kind, text in BLOCKS if kind == "console"])
def test_what_the_shell_prints_is_what_stands_below(worker: Served, tmp_path: Path, session: str) -> None:
    lines = session.replace(HERE, f"127.0.0.1:{worker.port}").splitlines()
    commands = [
        line.removeprefix("$ ").replace("python -c", f"{sys.executable} -c") for line in lines if line[:1] == "$"
    ]
    found = "".join(ran(["bash", "-c", command], tmp_path).rstrip("\n") + "\n" for command in commands)
    assert found.split() == [word for line in lines if line[:1] != "$" for word in line.split()]
