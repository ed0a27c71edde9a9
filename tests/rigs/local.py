"""The rig of the provider `local`: a real station, stood up by the real Pulumi engine in a temporary project."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ekiben as ek

PROJECT = Path(__file__).parent / "project"
STACK = "rig"


def make(base: type) -> Any:
    class LocalRig(base):  # type: ignore[misc, valid-type]
        provider = "local"
        hosted = True

        def up(self) -> ek.Platform:
            self.folder = Path(tempfile.mkdtemp(prefix="ekiben-rig-")).resolve()
            shutil.copytree(PROJECT, self.folder, dirs_exist_ok=True)
            (self.folder / f"Pulumi.{STACK}.yaml").write_text("config:\n  ekiben:provider: local\n")
            self.command("up")
            self.state_dir = self.folder / ".ekiben" / STACK
            return ek.Platform.from_json((self.state_dir / "platform.json").read_text("utf-8"))

        def down(self) -> None:
            self.command("destroy", "--yes")
            shutil.rmtree(self.folder)

        def again(self) -> int:
            changes = json.loads(self.command("up", "--json").stdout)["changes"]
            return sum(count for operation, count in changes.items() if operation != "same")

        def crash(self) -> None:
            from ekiben.station import launch

            os.kill(json.loads((self.state_dir / "station.json").read_text())["pid"], signal.SIGKILL)
            launch.ensure(self.state_dir, project=self.platform.project, stack=self.platform.stack)

        def take_away(self, run: ek.Run) -> None:
            mark = f"EKIBEN_SPEC_URI={(self.state_dir / 'runs' / run.id / 'run.json').as_uri()}".encode()
            for entry in Path("/proc").iterdir():
                with contextlib.suppress(OSError):
                    if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                        os.kill(int(entry.name), signal.SIGTERM)

        def command(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
            done = subprocess.run(
                [sys.executable, "-m", "ekiben.cli", *words, "--stack", STACK],
                cwd=self.folder,
                text=True,
                capture_output=True,
                timeout=240,
                env={k: v for k, v in os.environ.items() if not k.startswith(("EKIBEN_", "PULUMI_"))},
            )
            assert not check or done.returncode == 0, f"ekiben {' '.join(words)}:\n{done.stdout}\n{done.stderr}"
            return done

    return LocalRig()
