"""A campaign against one target: inputs are made until its share of the processor is used up, by atheris where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from .findings import Check, Finding, finding, minimised
from .mutation import MAX_BYTES, mutated

__all__ = ["CORPUS", "TARGETS", "Report", "campaign", "guided", "has_atheris", "replay"]

TARGETS = ("connection", "bodies", "verdicts", "front", "upstream", "records", "inference", "events")
# Whose corpus it is, where it has none of its own.
OF = {"verdicts": "bodies"}
CORPUS = Path(__file__).with_name("corpus")
MEMORY_BYTES = 4 << 30
# An input of a few KiB must not make the process grow by more than this.
GROWTH_KIB = 200 << 10
MAX_SEEDS = 4000


@dataclass
class Report:
    """What came of a campaign: `kinds` of outcomes that were told apart."""

    target: str
    engine: str
    executions: int = 0
    kinds: int = 0
    cpu_s: float = 0.0
    findings: list[Finding] = field(default_factory=list)


class Campaign:
    """`run` takes an input; what is new is kept in `seeds`, what is wrong in the report."""

    def __init__(self, target: str, check: Check, engine: str) -> None:
        self.report = Report(target, engine)
        self.seeds = [path.read_bytes() for path in sorted((CORPUS / OF.get(target, target)).iterdir())]
        self.check = check
        self._kinds: set[Hashable] = set()
        self._known: set[str] = set()
        self._began = time.process_time()

    @property
    def spent_s(self) -> float:
        return time.process_time() - self._began

    def run(self, data: bytes) -> None:
        self.report.executions += 1
        kind: list[Hashable] = []

        def check(data: bytes) -> Hashable:
            kind.append(self.check(data))
            return None

        before = _peak_kib()
        found = finding(self.report.target, check, data)
        if found is None and _peak_kib() - before > GROWTH_KIB and self.report.executions > 1:
            found = Finding(self.report.target, "the process grows by hundreds of MiB", data, "")
        if found is not None:
            if found.what not in self._known:
                self._known.add(found.what)
                self.report.findings.append(minimised(found, self.check))
        elif kind[0] not in self._kinds:
            self._kinds.add(kind[0])
            if len(self.seeds) < MAX_SEEDS:
                self.seeds.append(data)

    def ended(self) -> Report:
        self.report.cpu_s, self.report.kinds = round(self.spent_s, 1), len(self._kinds)
        return self.report


def campaign(target: str, cpu_s: float, seed: int) -> Report:
    """The corpus, then changed inputs; the same seed makes the same inputs, as far as the time allows."""
    return _campaign(target, seed, lambda this: this.spent_s < cpu_s)


def replay(target: str, executions: int, seed: int) -> Report:
    """As `campaign`, with a number of inputs in place of a time."""
    left = iter(range(executions))
    return _campaign(target, seed, lambda this: next(left, None) is not None)


def _campaign(target: str, seed: int, goes_on: Callable[[Campaign], bool]) -> Report:
    _bounded()
    module = importlib.import_module(f"{__package__}.{target}")
    this = Campaign(target, module.opened(), "mutation")
    draw = random.Random(seed)
    for data in list(this.seeds):
        this.run(data)
    while goes_on(this):
        this.run(mutated(this.seeds, module.WORDS, draw))
    return this.ended()


def guided(target: str, cpu_s: float, seed: int, told: Callable[[Report], None]) -> None:
    """As `campaign`, led by what the inputs reach in the code; ends the process, after `told`."""
    import atheris

    _bounded()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-corpus-"))  # before a target has its own place for such folders
    with atheris.instrument_imports(include=["ekiben", "starlette", "python_multipart"]):
        module = importlib.import_module(f"{__package__}.{target}")
        this = Campaign(target, module.opened(), "atheris")
    for data in list(this.seeds):
        this.run(data)
    for number, data in enumerate(this.seeds):
        (folder / str(number)).write_bytes(data)
    words = folder.with_suffix(".dict")
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in module.WORDS if word))

    def one(data: bytes) -> None:
        this.run(data)
        if this.spent_s > cpu_s:
            shutil.rmtree(folder, ignore_errors=True)
            words.unlink()
            told(this.ended())
            sys.stdout.flush()
            os._exit(0)

    kept = Path(__file__).parents[2] / ".build" / "fuzz"  # what ends the process, by the digest of the input
    kept.mkdir(parents=True, exist_ok=True)
    quiet = [
        f"-artifact_prefix={kept}/",
        "-verbosity=0",
        "-print_final_stats=0",
        f"-max_len={MAX_BYTES}",
        f"-seed={seed}",
        f"-dict={words}",
        "-timeout=60",
    ]
    atheris.Setup([sys.argv[0], *quiet, "-rss_limit_mb=4096", str(folder)], one, enable_python_coverage=True)
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def has_atheris() -> bool:
    return importlib.util.find_spec("atheris") is not None


def _bounded() -> None:
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
