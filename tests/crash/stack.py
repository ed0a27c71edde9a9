"""A project in a folder of its own whose processes are killed now and then: Ekiben's verbs on it, and what went wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ekiben.errors import EkibenError
from tests.crash.plan import Point
from tests.crash.victims import Killer
from tests.waiting import PATIENCE_S

__all__ = ["PROJECT", "STACK", "Broken", "Stack"]

PROJECT = Path(__file__).parent / "project"
NAME = STACK = "crash"
TRIES = 3
COMMAND_S = 600


class Broken(Exception):
    """A part of the loop did not come to its end although nothing stood in its way."""


class Stack:
    """One stack of a copy of the project. say: told what goes on; config: the stack's; name: the project's. mended: the phases in
    which no engine runs, which would mend what was killed.
    """

    mended: tuple[str, ...] = ()
    number = 0

    def __init__(self, config: Mapping[str, object], say: Callable[[str], None], name: str = NAME) -> None:
        self.say = say
        self.root = Path(tempfile.mkdtemp(prefix="ekiben-crash-")).resolve()
        shutil.copytree(PROJECT, self.root, dirs_exist_ok=True)
        settings = self.root / "Pulumi.yaml"
        settings.write_text(settings.read_text("utf-8").replace(f"name: {NAME}\n", f"name: {name}\n"), encoding="utf-8")
        lines = [f"  {key}: {json.dumps(value)}\n" for key, value in config.items()]
        (self.root / f"Pulumi.{STACK}.yaml").write_text("config:\n" + "".join(lines))
        self.temporary = self.root / "tmp"
        self.temporary.mkdir()
        self.state_dir = self.root / ".ekiben" / STACK
        self.checkpoint = self.root / ".ekiben" / ".pulumi" / "stacks" / name / f"{STACK}.json"
        self.violations: list[str] = []
        self.killed: Counter[str] = Counter()
        self.missed: list[Point] = []
        self.totals: Counter[str] = Counter()
        self.now = ""
        self._command: subprocess.Popen[str] | None = None
        self._point: Point | None = None

    def end(self) -> None:
        """Let nothing run on, whatever has stopped it."""
        if self._command:
            self._command.kill()

    def _phase(self, name: str, act: Callable[[], None], points: list[Point]) -> None:
        """Do it until it is done, once for each point, and whenever a kill has stopped it; it is done again where none came."""
        for point in points or [None]:
            self._point = point
            self.now = f"cycle {self.number}, {name}" + (f", {point.victim} after {point.delay_s} s" if point else "")
            began = time.monotonic()
            killer = self._killer(point) if point else None
            for _ in range(TRIES):
                self._done(act, killer, self._mend if name in self.mended else lambda: None)
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
        killer = Killer(point, self.state_dir, self.checkpoint, lambda: self._command.pid if self._command else -1)
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

    def _mend(self) -> None:
        """Start again what was killed where no engine does."""

    def _run(self, *words: str) -> str:
        """An `ekiben` command, to its end, and what it told. Raises Broken when it fails."""
        where = ("--stack", STACK) if words[0] in ("up", "destroy", "inventory", "env") else ()
        return self._finished([sys.executable, "-m", "ekiben.cli", *words, *where], self._environ())

    def _finished(self, words: list[str], env: Mapping[str, str]) -> str:
        self._command = subprocess.Popen(
            words,
            cwd=self.root,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
        )
        try:
            told = self._command.communicate(timeout=COMMAND_S)[0]
            if self._command.returncode:
                raise Broken(f"`{' '.join(words[:5])}` ended with {self._command.returncode}:\n{told[-2000:]}")
            return told
        finally:
            self._command = None

    def _environ(self) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "EKIBEN_", "PULUMI_"))
        }
        return {**kept, "TMPDIR": str(self.temporary), "PULUMI_SKIP_UPDATE_CHECK": "true", "EKIBEN_STACK": STACK}

    def _settled(self, look: Callable[[], list[str]]) -> None:
        """What is still wrong after a while: a process that was killed takes a moment to be gone."""
        deadline = time.monotonic() + PATIENCE_S
        while (found := look()) and time.monotonic() < deadline:
            time.sleep(0.5)
        self._wrong(found)

    def _wrong(self, sentences: Iterable[str]) -> None:
        for sentence in sentences:
            self.violations.append(f"{self.now}: {sentence}")
            self.say(f"VIOLATION {self.violations[-1]}")
