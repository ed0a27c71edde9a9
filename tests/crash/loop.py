"""The loop of a project from `up` to `destroy`, while one of its processes is killed now and then, and what was promised in it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import Any

import ekiben as ek
from ekiben.errors import EkibenError
from ekiben.station import launch
from tests.crash import invariants
from tests.crash.plan import PHASES, Point
from tests.crash.stack import PROJECT, STACK, Broken, Stack
from tests.crash.traffic import ENDPOINT, Traffic
from tests.waiting import PATIENCE_S

__all__ = ["Loop"]

TICK_S = 0.05
SAID = 8


class Loop(Stack):
    """The project on this machine. `cycle` runs the loop once; what was wrong is in `violations`."""

    mended = tuple(phase.name for phase in PHASES if not phase.engine)

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__({"ekiben:provider": "local"}, say)

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
        super().end()
        launch.stop(self.state_dir)

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

    def _count(self) -> None:
        self.totals["calls"] += self.traffic.sent
        self.totals["answers"] += len(self.traffic.answers)
        self.totals["logged"] += sum(bool(answer.id) for answer in self.traffic.answers)
        if (self.state_dir / "station.db").exists():
            for what in ("events", "deliveries", "runs"):
                self.totals[what] += self._rows(f"select count(*) as n from {what}")[0]["n"]
