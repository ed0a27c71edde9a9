"""`up` on an emulated AWS or on a cluster, killed in the middle: the next `up` or `destroy` ends clean, and nothing is left."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from tests.crash import invariants
from tests.crash.clouds import Cloud
from tests.crash.plan import Point
from tests.crash.stack import STACK, Broken, Stack
from tests.crash.victims import Killer, find, left_over

__all__ = ["Ups"]

PLAIN = ("up", "--yes", "--skip-preview", "--non-interactive", "--color", "never")
MAIN = "main: infra/"
# The state is written at least so often while the second program takes the place of the first.
CHANGES = 10


class Ups(Stack):
    """The project in a cloud. `cycle` brings it up with a kill, then to its end, and takes it down."""

    def __init__(self, cloud: Cloud, say: Callable[[str], None]) -> None:
        super().__init__(cloud.config, say, cloud.project)
        self.cloud = cloud
        settings = self.root / "Pulumi.yaml"
        settings.write_text(settings.read_text("utf-8").replace(MAIN, "main: cloud/"), encoding="utf-8")
        (self.root / "change.txt").write_text("0")
        self.now, self.whole = "before all", cloud.resources
        self._run("destroy", "--yes")  # the emulator and the stack are there, and hold nothing
        self.variables: dict[str, str] = json.loads(self._run("env", "--json"))
        # Where its folder is on PATH already, `env` says nothing of PATH.
        self.pulumi = str(shutil.which("pulumi", path=self.variables.get("PATH")))
        cloud.begin(self.root)

    def end(self) -> None:
        super().end()
        self.cloud.end()

    def cycle(self, number: int, points: list[Point]) -> None:
        (point,) = points
        self.number = number
        self.now = f"cycle {number}, {point.phase}, {point.victim} at {point.share:.0%}, then {point.then}"
        (self.root / "change.txt").write_text("0")
        try:
            if point.phase == "change":
                self._run("up")
                (self.root / "change.txt").write_text("1")
            self._struck(point)
            if point.then == "up":
                self._run("up")
                self._wrong(self._differs())
                self._unsee()
            self._run("destroy", "--yes")
            self._gone()
            if point.then == "up":
                self._run("inventory")
        except Broken as error:
            self._wrong([str(error)])
            self._wrong(self._cleared())
        self.say(self.now)

    def _unsee(self) -> None:
        """As if everything was made, and nobody saw it end; and of each type one was begun that was not made."""
        state = json.loads(self.checkpoint.read_text("utf-8"))
        latest = state["checkpoint"]["latest"]
        self.whole = len(latest["resources"])
        rest = [one for one in latest["resources"] if not one["custom"] or one["type"].startswith("pulumi:")]
        pending = self.cloud.begun([one for one in latest["resources"] if one not in rest])
        latest |= {"resources": rest, "pending_operations": [{"type": "creating", "resource": one} for one in pending]}
        self.totals["unseen"] += len(pending)
        self.checkpoint.write_text(json.dumps(state), encoding="utf-8")

    def _struck(self, point: Point) -> None:
        """An `up` that is killed: Pulumi's own, or Ekiben's verb with all that it runs. One that had ended before was missed."""
        verb = point.victim == "command"
        killer = Killer(point, self.state_dir, self.checkpoint, self._pid if verb else os.getpid, self._moment(point))
        killer.start()
        try:
            if verb:
                self._run("up")
            else:
                self._finished([self.pulumi, *PLAIN, "--stack", STACK], {**self._environ(), **self.variables})
        except Broken as error:
            if not killer.struck:
                raise Broken(f"it failed, and nothing was killed: {error}") from error
        finally:
            killer.give_up()
        self.killed[point.victim] += bool(killer.struck)
        if not killer.struck:
            self.missed.append(point)
            self.now += " (missed)"
        else:
            pending = self._state().get("pending_operations") or ()
            self.totals["pending"] += len(pending)
            self.now += f" ({len(self._state().get('resources') or ())} made, {len(pending)} pending)"

    def _moment(self, point: Point) -> Callable[[], bool]:
        """Has the engine come as far as the point says?"""
        wrote: set[int] = set()

        def made() -> bool:
            return len(self._state().get("resources") or ()) >= point.share * self.whole

        def changed() -> bool:
            if find("engine", self.state_dir, self._pid()) or find("engine", self.state_dir, os.getpid()):
                wrote.add(self.checkpoint.stat().st_mtime_ns)
            return len(wrote) > 1 + point.share * CHANGES

        return changed if point.phase == "change" else made

    def _state(self) -> dict[str, Any]:
        try:
            return json.loads(self.checkpoint.read_text("utf-8"))["checkpoint"]["latest"] or {}
        except (OSError, ValueError, KeyError):  # it is being replaced
            return {}

    def _pid(self) -> int:
        return self._command.pid if self._command else -1

    def _differs(self) -> Iterator[str]:
        """What the state has and the cloud has not, or has more of."""
        state = self._state()
        if state.get("pending_operations"):
            yield f"{len(state['pending_operations'])} operations are pending after `up`"
        there, known = self.cloud.compared(state["resources"])
        for type in sorted(there.keys() | known.keys()):
            if there[type] != known[type]:
                yield f"after `up` there are {there[type]} {type}, and the state has {known[type]}"

    def _gone(self) -> None:
        self.now += ", after destroy"
        self._settled(lambda: [*invariants.of_engine(self.root, STACK), *self._at_work()])
        self._wrong(f"after destroy there are {count} {type}" for type, count in self.cloud.left().items())

    def _at_work(self) -> Iterator[str]:
        """Processes of an engine that has ended."""
        for words in left_over(self.root):
            if any(part in words for part in ("pulumi", "ekiben.engine", ".plugin")):
                yield f"after destroy there is the process: {words}"

    def _cleared(self) -> Iterator[str]:
        """The next cycle begins with nothing, whatever this one has left."""
        self.cloud.reset()
        self.checkpoint.unlink(missing_ok=True)
        try:
            self._run("destroy", "--yes")
        except Broken as error:
            yield str(error)
