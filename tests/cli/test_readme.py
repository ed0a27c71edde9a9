"""The commands of the README's first walk, one after the other as they stand there, on this project with a small model in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import until

ROOT = Path(__file__).parents[2]
RIG = ROOT / "tests" / "rigs" / "project"


def walk() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    block = next(block for block in blocks if "$ ekiben up" in block)
    return [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ekiben")]


class Walk:
    """The project of this repository, whose training fits a slope."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copy(RIG / "Pulumi.yaml", folder)
        (folder / "Pulumi.local.yaml").write_text("config:\n  ekiben:provider: local\n")
        (folder / "infra").mkdir()
        shutil.copy(ROOT / "infra" / "__main__.py", folder / "infra")
        shutil.copytree(ROOT / "functions", folder / "functions")
        shutil.copytree(RIG / "bentos" / "tiny", folder / "bentos" / "employment")
        shutil.copytree(RIG / "training_jobs" / "tiny", folder / "training_jobs" / "employment")
        job = folder / "training_jobs" / "employment" / "train.py"
        text = job.read_text(encoding="utf-8")
        for before, after in (
            ('inputs()["points"]', 'inputs()["census"]'),
            ("*.jsonl", "*.parquet"),
            ('params["scale"]', "1.0"),
        ):
            assert before in text
            text = text.replace(before, after)
        job.write_text(text, encoding="utf-8")
        (folder / "data.parquet").write_text('{"x": 1, "y": 2}\n')
        (folder / "request.json").write_text('{"x": 3}')

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        env = {key: value for key, value in os.environ.items() if not key.startswith(("EKIBEN_", "PULUMI_"))}
        done = subprocess.run(
            ["/bin/sh", "-c", line], cwd=self.folder, env={**env, "PATH": path}, stdin=subprocess.DEVNULL, timeout=280,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, line: str) -> Any:
        return json.loads(self.run(f"{line} --json").stdout)

    def until(self, line: str, true: Callable[[Any], Any]) -> None:
        found: list[Any] = []

        def look() -> bool:
            found[:] = [self.json(line)]
            return bool(true(found[0]))

        try:
            until(look)
        except AssertionError:
            pytest.fail(f"{line}: {found}\n{self.run('ekiben functions --state dead --json').stdout}")

    def serves(self, version: str) -> None:
        self.until(
            "ekiben endpoints",
            lambda found: any(r["version"] == version and r["weight"] for r in found[0]["revisions"]),
        )


@pytest.mark.engine
@pytest.mark.timeout(900)
def test_the_commands_of_the_readme(tmp_path: Path) -> None:
    here = Walk(tmp_path)
    said = ""
    try:
        for line in walk():
            verb = line.split()[1]
            if verb == "models":
                here.until("ekiben models", lambda found: found)
            if verb == "invoke":
                here.serves("employment:1")
            if verb == "rollback":
                (tmp_path / "more.parquet").write_text('{"x": 1, "y": 4}\n')
                here.run("ekiben put more.parquet lake/employment/")
                here.until("ekiben models", lambda found: len(found) == 2)
                here.run("ekiben approve employment:2 --why newer")
                here.serves("employment:2")
            said = here.run(line).stdout
            if verb == "invoke":
                assert json.loads(said) == {"y": 6.0}
        assert "local: nothing left." in said
    finally:
        subprocess.run(
            [sys.executable, "-m", "ekiben.cli", "destroy", "--yes"],
            cwd=tmp_path,
            capture_output=True,
            timeout=280,
            check=False,
        )
