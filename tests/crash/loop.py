"""The loop of a project from `up` to `destroy`, while one of its processes is killed now and then, and what was promised in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ekiben as ek
from ekiben.errors import EkibenError
from ekiben.station import launch
from tests.crash import invariants
from tests.crash.plan import PHASES, Point
from tests.crash.traffic import ENDPOINT, Traffic
from tests.crash.victims import Killer
from tests.waiting import PATIENCE_S

__all__ = ["Loop"]

PROJECT = Path(__file__).parent / "project"
STACK = "crash"
TRIES = 3
TICK_S = 0.05
SAID = 8
# Where no engine runs, which would mend a station that was killed.
MENDED = [phase.name for phase in PHASES if not phase.engine]


class Broken(Exception):
    """A part of the loop did not come to its end although nothing stood in its way."""


class Loop:
    """A project in a folder of its own. `cycle` runs the loop once; what was wrong is in `violations`."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.root = Path(tempfile.mkdtemp(prefix="ekiben-crash-")).resolve()
        shutil.copytree(PROJECT, self.root, dirs_exist_ok=True)
        (self.root / f"Pulumi.{STACK}.yaml").write_text("config:\n  ekiben:provider: local\n")
        self.temporary = self.root / "tmp"
        self.temporary.mkdir()
        self.state_dir = self.root / ".ekiben" / STACK
        self.violations: list[str] = []
        self.killed: Counter[str] = Counter()
        self.missed: list[Point] = []
        self.totals: Counter[str] = Counter()
        self.now = ""
        self._command: subprocess.Popen[str] | None = None
        self._point: Point | None = None

    def cycle(self, number: int, points: list[Point]) -> None:
        """The whole loop once, with these points in it."""
        self.number = number
        self.marks = self.root / "marks" / "marks.jsonl"
        shutil.rmtree(self.marks.parent, ignore_errors=True)
        self.marks.parent.mkdir()
        (self.root / "change.txt").write_text("0")
        self.said: list[str] = []
        self.landed: dict[str, str] = {}
        self.traffic = Traffic(self.state_dir)
        try:
            for phase in PHASES[:-1]:
                mine = [point for point in points if point.phase == phase.name]
                if mine or not phase.engine or phase.name == "up":
                    self._phase(phase.name, getattr(self, f"_{phase.name}"), mine)
            self.now = f"cycle {number}, at its end"
            self._until(self._quiet, "all deliveries and runs end")
            self.traffic.stop()
            self._check()
        except (Broken, EkibenError, AssertionError) as error:
            self._wrong([f"{type(error).__name__}: {error}"])
        finally:
            self.traffic.stop()
            self._count()
        try:
            self._phase("destroy", self._destroy, [point for point in points if point.phase == "destroy"])
            self._gone()
        except (Broken, EkibenError) as error:
            self._wrong([f"{type(error).__name__}: {error}"])

    def end(self) -> None:
        """Let nothing run on, whatever has stopped the loop."""
        if self._command:
            self._command.kill()
        launch.stop(self.state_dir)

    def _phase(self, name: str, act: Callable[[], None], points: list[Point]) -> None:
        """Do it until it is done, once for each point, and whenever a kill has stopped it; it is done again where none came."""
        for point in points or [None]:
            self._point = point
            self.now = f"cycle {self.number}, {name}" + (f", {point.victim} after {point.delay_s} s" if point else "")
            began = time.monotonic()
            killer = self._killer(point) if point else None
            for _ in range(TRIES):
                self._done(act, killer, self._mend if name in MENDED else lambda: None)
                if killer is None or killer.struck:
                    break
            if killer and point:
                killer.give_up()
                self.killed[point.victim] += bool(killer.struck)
                if not killer.struck:
                    self.missed.append(point)
                    self.now += " (missed)"
            self.say(f"{self.now}: {time.monotonic() - began:.1f} s")

    def _killer(self, point: Point) -> Killer:
        checkpoint = self.root / ".ekiben" / ".pulumi" / "stacks" / "crash" / f"{STACK}.json"
        killer = Killer(point, self.state_dir, checkpoint, lambda: self._command.pid if self._command else -1)
        killer.start()
        return killer

    def _done(self, act: Callable[[], None], killer: Killer | None, mend: Callable[[], None]) -> None:
        """Do it; when a kill has stopped it, mend and do it once more. An engine mends by itself."""
        struck = killer.struck if killer else 0
        try:
            act()
        except (Broken, EkibenError) as error:
            if killer is None or killer.struck == struck:
                raise Broken(f"it failed, and nothing was killed: {error}") from error
            mend()
            act()
        mend()

    def _up(self) -> None:
        self._run("up")
        self.runtime = ek.connect(str(self.state_dir / "platform.json"))

    def _change(self) -> None:
        """An `up` that has something to do: parameters, and the code of a function and of a job."""
        change = str(int((self.root / "change.txt").read_text()) + 1)
        (self.root / "change.txt").write_text(change)
        for source in ("functions/witness/main.py", "training_jobs/line/train.py"):
            text = (PROJECT / source).read_text("utf-8")
            (self.root / source).write_text(f"{text}\n# Change {change}.\n")
        self._up()

    def _train(self) -> None:
        """New data, until a run on it has succeeded and all that came of it is registered."""
        while True:
            number = len(self.landed) + 1
            text = "".join(f'{{"x": {x}, "y": {x * number}}}\n' for x in (1, 2, 3))
            lake = self.runtime.storage("lake")
            put = lake.put(f"points/{number}.jsonl", text.encode())
            self.landed[put.key] = put.etag
            event = self._until(lambda etag=put.etag: self._event_of(etag), "the new data is seen")
            name = self._until(lambda event=event: self._result("retrain", event), "the new data is taken")
            ids = [f"{training}-{name}" for training in ("once", "again")]
            self._until(lambda ids=ids: all(self._run_of(id).ended for id in ids), f"{ids} end")
            done = [id for id in ids if self._run_of(id).state == "succeeded"]
            for id in ids:
                self._until(lambda id=id: self._result("register", f"training-ended-{id}"), f"{id} is registered")
            if done:
                return

    def _release(self) -> None:
        """The latest version, approved, has the traffic and is champion."""
        models = self.runtime.registry("models")
        latest = models.versions("line")[0]
        if latest.aliases:
            self._train()
            latest = models.versions("line")[0]
        self._until(lambda: models.decide(latest.id, "approved", who="crash", why="test"), f"{latest.id} is approved")
        self._until(lambda: self._champion() == latest.id, f"{latest.id} is released")
        self.traffic.start()

    def _calls(self) -> None:
        calls = self.traffic.burst(callers=6, each=40)
        self._until(lambda: all(call.done() for call in calls), "the calls are answered")

    def _again(self) -> None:
        self._train()
        self._release()

    def _events(self) -> None:
        for _ in range(SAID):
            id = f"said-{len(self.said) + 1}"
            self._until(lambda id=id: self._publish(id), f"{id} is published")
            self.said.append(id)
        for id in self.said[-SAID:]:
            self._until(lambda id=id: self._ended("witness", id), f"{id} is delivered")

    def _rollback(self) -> None:
        """Back to the version before; where that was done and nobody lived to tell, it goes forward again, and that is right."""
        self._run("rollback", ENDPOINT, "--why", "test")

    def _destroy(self) -> None:
        self._run("destroy", "--yes")

    def _publish(self, id: str) -> bool:
        from ekiben.local.runtime import publish

        publish(ek.Event(id=id, type="Said", source="crash", time=""), self.runtime.platform)
        return True

    def _champion(self) -> str:
        """The version that is champion and has all the traffic; empty while they differ."""
        name = self.runtime.registry("models").version("line@champion").id
        serving = [one.version for one in self.runtime.endpoint(ENDPOINT).revisions() if one.weight]
        return name if serving == [name] else ""

    def _run_of(self, id: str) -> ek.Run:
        return self.runtime.training(id.partition("-")[0]).run(id)

    def _event_of(self, etag: str) -> str:
        found = self._rows(f"select id from events where type = 'NewData' and record like '%{etag}%'")
        return str(found[0]["id"]) if found else ""

    def _ended(self, function: str, event: str) -> bool:
        sql = f"select state from deliveries where event = '{event}' and function = '{function}'"
        return any(row["state"] in ("done", "dead") for row in self._rows(sql))

    def _result(self, function: str, event: str) -> str:
        sql = f"select result from deliveries where event = '{event}' and function = '{function}' and state = 'done'"
        return next((str(row["result"]).strip('"') for row in self._rows(sql)), "")

    def _quiet(self) -> bool:
        busy = [
            *self._rows("select id from deliveries where state in ('waiting', 'running')"),
            *self._rows("select id from runs where state in ('pending', 'running')"),
        ]
        return not busy

    def _rows(self, sql: str) -> list[dict[str, Any]]:
        return invariants.rows(self.state_dir, sql)

    def _until(self, true: Callable[[], Any], what: str) -> Any:
        """The first true value; a station that was killed meanwhile is mended by the next command."""
        deadline = time.monotonic() + PATIENCE_S
        told = ""
        while time.monotonic() < deadline:
            try:
                if value := true():
                    return value
            except EkibenError as error:
                told = f" ({error})"
            self._mend()
            time.sleep(TICK_S)
        raise Broken(f"it never came true that {what}{told}")

    def _mend(self) -> None:
        if not launch.running(self.state_dir):
            time.sleep(self._point.down_s if self._point else 0)
            launch.ensure(self.state_dir, project="crash", stack=STACK)

    def _run(self, *words: str) -> None:
        """An `ekiben` command, to its end. Raises Broken when it fails."""
        where = ("--stack", STACK) if words[0] in ("up", "destroy", "inventory") else ()
        self._command = subprocess.Popen(
            [sys.executable, "-m", "ekiben.cli", *words, *where], cwd=self.root, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=self._environ(),
        )  # fmt: skip
        try:
            told = self._command.communicate(timeout=300)[0]
            if self._command.returncode:
                raise Broken(f"`ekiben {words[0]}` ended with {self._command.returncode}:\n{told[-2000:]}")
        finally:
            self._command = None

    def _environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("EKIBEN_", "PULUMI_"))}
        return {**kept, "TMPDIR": str(self.temporary), "PULUMI_SKIP_UPDATE_CHECK": "true", "EKIBEN_STACK": STACK}

    def _check(self) -> None:
        """Everything, before the project is destroyed."""
        if not self._until(self.traffic.call, "the endpoint answers"):
            return
        answers = self.traffic.answers
        self._wrong(invariants.of_events(self.state_dir, self.said, self.landed))
        self._wrong(invariants.of_runs(self.state_dir, self.marks))
        self._wrong(invariants.of_models(self.state_dir, self.runtime))
        self._settled(lambda: list(invariants.of_predictions(self.state_dir, self.runtime, answers)))
        self._wrong(self.traffic.wrong)
        self._settled(self._files)

    def _files(self) -> list[str]:
        """What a killed process was writing in a storage is taken away by the next that writes there."""
        self.runtime.storage("lake").put("last", b"")
        return list(invariants.of_files(self.state_dir))

    def _gone(self) -> None:
        self.now = f"cycle {self.number}, after destroy"
        self._settled(lambda: list(invariants.after_destroy(self.root, STACK, self.temporary)))
        try:
            self._run("inventory")
        except Broken as error:
            self._wrong([str(error)])

    def _settled(self, look: Callable[[], list[str]]) -> None:
        """What is still wrong after a while: a process that was killed takes a moment to be gone."""
        deadline = time.monotonic() + PATIENCE_S
        while (found := look()) and time.monotonic() < deadline:
            time.sleep(0.5)
        self._wrong(found)

    def _count(self) -> None:
        self.totals["calls"] += self.traffic.sent
        self.totals["answers"] += len(self.traffic.answers)
        self.totals["logged"] += sum(bool(answer.id) for answer in self.traffic.answers)
        if (self.state_dir / "station.db").exists():
            for what in ("events", "deliveries", "runs"):
                self.totals[what] += self._rows(f"select count(*) as n from {what}")[0]["n"]

    def _wrong(self, sentences: Iterable[str]) -> None:
        for sentence in sentences:
            self.violations.append(f"{self.now}: {sentence}")
            self.say(f"VIOLATION {self.violations[-1]}")
