"""The demo, as a newcomer runs it: interrupted, gone on with, repeated, destroyed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.example.conftest import ROOT
from tests.waiting import PATIENCE_S

PROJECT = ("Pulumi.yaml", "Pulumi.local.yaml", "infra", "functions", "training_jobs", "bentos")


class Demo:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "infra/demo.py", *arguments],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if not name.startswith(("EKIBEN_", "PULUMI_"))},
        )

    def run(self, *arguments: str) -> str:
        process = self.start(*arguments)
        shown = process.communicate(timeout=500)[0]
        assert process.returncode == 0, shown
        return shown


@pytest.fixture
def demo(census: Path, tmp_path: Path) -> Iterator[Demo]:
    for name in PROJECT:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    demo = Demo(tmp_path)
    yield demo
    demo.run("--clean")


@pytest.mark.engine
@pytest.mark.timeout(900)
def test_the_demo_can_be_interrupted_repeated_and_destroyed(demo: Demo) -> None:
    process = demo.start()
    assert process.stdout
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith("trees 10/"):
            os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: the demo and the command that it shows
            break
    seen.append(process.stdout.read())
    assert process.wait(PATIENCE_S) == 130, "".join(seen)
    assert "`make demo` goes on from here; `make clean-demo` removes it all." in seen[-1]

    shown = demo.run()
    for said in (
        "The files are there.",
        "employment:1 is approved.",
        "'decision': 'employed'".replace("'", '"'),
        "bad.csv row 2: AGEP '-7' is not from 0 to 99.",
        "bad.csv row 3: MAR 'yes' is missing or not a number",
        "Done in",
    ):
        assert said in shown, shown
    assert shown.index("bad.csv row 2") < shown.rindex("employment:1  100 %")

    again = demo.run()
    assert "nothing to do but ask it" in again
    assert "$ ekiben up" not in again

    command = [sys.executable, "-m", "ekiben.cli", "rebuild", "employment:1", "--json"]
    rebuilt = subprocess.run(command, cwd=demo.folder, capture_output=True, text=True, timeout=300)
    assert rebuilt.returncode == 0, rebuilt.stdout + rebuilt.stderr
    assert json.loads(rebuilt.stdout)["verdict"] == "identical", rebuilt.stdout

    gone = demo.run("--clean")
    assert "nothing left" in gone
    assert sorted(path.name for path in demo.folder.glob(".ekiben/*")) in ([], [".pulumi"])
