"""What a fuzzer has found stays found: its corpus, and some thousand inputs made from it, the same in each run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.engine import CORPUS, TARGETS
from tests.fuzz.findings import Finding, finding, minimised

ROOT = Path(__file__).parents[2]
EXECUTIONS = 1500
MAX_CORPUS_BYTES = 1_000_000


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_found_any_more(target: str) -> None:
    command = [
        sys.executable, "-m", "tests.fuzz", "--target", target, "--executions", str(EXECUTIONS), "--seed", "1", "--json"
    ]  # fmt: skip
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    told = json.loads(ran.stdout)
    assert told["findings"] == [], ran.stdout
    assert (ran.returncode, told["target"]) == (0, target), ran.stderr
    assert told["executions"] > EXECUTIONS  # the corpus was run, too
    assert told["kinds"] > 3


def test_a_finding_is_told_by_what_it_is_and_made_as_short_as_it_can_be() -> None:
    def check(data: bytes) -> None:
        if b"<" in data and b">" in data:
            raise ValueError(f"{len(data)} bytes")

    assert finding("brackets", check, b"fine") is None
    found = finding("brackets", check, b"a" * 500 + b"<" + b"b" * 500 + b">" + b"c" * 500)
    assert isinstance(found, Finding)
    assert found.what == "ValueError in test_fuzz.py check"
    assert minimised(found, check).data == b"<>"


def test_what_takes_too_long_is_a_finding() -> None:
    def check(data: bytes) -> None:
        while data:
            pass

    found = finding("loop", check, b"x")
    assert found is not None
    assert "s of the processor" in found.what


def test_the_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in CORPUS.rglob("*")) < MAX_CORPUS_BYTES
