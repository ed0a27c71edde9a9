"""The rig of the provider `local`: a real station, stood up by the real Pulumi engine in a temporary project."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import ekiben as ek
from tests.rigs.stack import Stack
from tests.waiting import until


def make(base: type) -> Any:
    class LocalRig(base):  # type: ignore[misc, valid-type]
        provider = "local"
        hosted = True

        def up(self) -> ek.Platform:
            self.stack = Stack({"ekiben:provider": "local"})
            self.state_dir = self.stack.state_dir
            return self.stack.up()

        def down(self) -> None:
            from ekiben.station import launch

            try:
                self.stack.down()
            finally:
                launch.stop(self.state_dir)
                shutil.rmtree(self.stack.folder)

        def again(self) -> int:
            return self.stack.again()

        def crash(self) -> None:
            from ekiben.station import launch

            os.kill(json.loads((self.state_dir / "station.json").read_text())["pid"], signal.SIGKILL)
            launch.ensure(self.state_dir, project=self.platform.project, stack=self.platform.stack)

        def rest(self, endpoint: str) -> None:
            found = self.runtime.endpoint(endpoint)
            until(lambda: all(revision.instances == 0 for revision in found.revisions()))

        def take_away(self, run: ek.Run) -> None:
            mark = f"EKIBEN_SPEC_URI={(self.state_dir / 'runs' / run.id / 'run.json').as_uri()}".encode()
            for entry in Path("/proc").iterdir():
                with contextlib.suppress(OSError):
                    if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                        os.kill(int(entry.name), signal.SIGTERM)

    return LocalRig()
