"""What is the same for every rig: a project of its own in a temporary folder, and Ekiben's verbs on it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import ekiben as ek

__all__ = ["STACK", "THEIRS", "Stack", "environment"]

PROJECT = Path(__file__).parent / "project"
STACK = "rig"
THEIRS = ("EKIBEN_", "PULUMI_")
# Which of this machine's clusters is meant: `ekiben.emulators.kubernetes.layout`.
OURS = ("EKIBEN_CLUSTER",)
T = TypeVar("T")


class Stack:
    """A copy of the project with one stack, whose `config` is given. The environment is the tests', without what names another."""

    def __init__(self, config: Mapping[str, object], *, theirs: tuple[str, ...] = THEIRS) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ekiben-rig-")).resolve()
        shutil.copytree(PROJECT, self.folder, dirs_exist_ok=True)
        lines = [f"  {key}: {json.dumps(value)}\n" for key, value in config.items()]
        (self.folder / f"Pulumi.{STACK}.yaml").write_text("config:\n" + "".join(lines))
        self.state_dir = self.folder / ".ekiben" / STACK
        self._theirs = theirs

    def up(self) -> ek.Platform:
        self.command("up")
        return ek.Platform.from_json((self.state_dir / "platform.json").read_text("utf-8"))

    def again(self) -> int:
        """`up` once more; returns how many resources it changed."""
        changes = json.loads(self.command("up", "--json").stdout)["changes"]
        return sum(count for operation, count in changes.items() if operation != "same")

    def down(self) -> None:
        self.command("destroy", "--yes")
        self.command("inventory")

    def command(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "ekiben.cli", *words, *(() if words[0] == "emulate" else ("--stack", STACK))],
            cwd=self.folder, text=True, capture_output=True, timeout=600,
            env=environment(self._theirs),
        )  # fmt: skip
        assert not check or done.returncode == 0, f"ekiben {' '.join(words)}:\n{done.stdout}\n{done.stderr}"
        return done


def environment(theirs: tuple[str, ...]) -> dict[str, str]:
    """This process's, without the variables that begin so."""
    return {name: value for name, value in os.environ.items() if name in OURS or not name.startswith(theirs)}
