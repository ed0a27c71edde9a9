"""A few points of the crash test, and that its plan follows from its seed alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ekiben.emulators.kubernetes.chosen import Chosen
from tests.crash.plan import PER_CYCLE, PHASES, plan, plan_of_ups

SEED, POINTS, LIMIT_S = 83, 7, 560
UP_SEED, UPS, UP_LIMIT_S = 38, 2, 560
# An engine that is killed when half of it is there, and a destroy.
ON_CLUSTER = ("--seed", "81", "--points", "1", "--provider", "kubernetes")


def test_the_same_seed_is_the_same_plan() -> None:
    assert plan(SEED, 100) == plan(SEED, 100) != plan(SEED + 1, 100)
    points = [point for cycle in plan(SEED, 100) for point in cycle]
    assert [point.number for point in points] == list(range(100))
    kinds = {kind for phase in PHASES for kind in phase.victims}
    assert {point.victim for point in points} == kinds
    engine = {phase.name for phase in PHASES if phase.engine}
    assert sum(point.phase in engine for point in points) >= 15
    assert all(len(cycle) <= PER_CYCLE for cycle in plan(SEED, 100))


def test_ups_are_killed_all_along_and_go_on_either_way() -> None:
    assert plan_of_ups(SEED, 20) == plan_of_ups(SEED, 20) != plan_of_ups(SEED + 1, 20)
    points = [point for (point,) in plan_of_ups(SEED, 200)]
    assert {point.phase for point in points} == {"up", "change"}
    assert {point.then for point in points} == {"up", "destroy"}
    assert {point.victim for point in points} == {"engine", "command", "plugin", "language", "program"}
    engine = [point.share for point in points if point.victim == "engine"]
    assert min(engine) < 0.1
    assert max(engine) > 0.9


@pytest.mark.engine
def test_nothing_is_lost_made_twice_or_left_whoever_is_killed() -> None:
    found, log = crashed("--seed", str(SEED), "--points", str(POINTS))
    assert found["points"] + found["missed"] == POINTS
    assert found["points"] >= POINTS - 2, f"a machine may be too quick or too slow for one, not for all:\n{log}"
    assert found["logged"] == found["answers"] > 0


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_an_up_in_a_cloud_that_is_killed_is_taken_up() -> None:
    found, log = crashed("--seed", str(UP_SEED), "--points", str(UPS), "--provider", "aws", limit_s=UP_LIMIT_S)
    assert found["points"] + found["missed"] == UPS
    assert found["points"], f"all were missed:\n{log}"


@pytest.mark.cluster
@pytest.mark.engine
@pytest.mark.timeout(900)
def test_an_up_on_a_cluster_that_is_killed_leaves_nothing(emulated_knative: Chosen) -> None:
    found, log = crashed(*ON_CLUSTER, limit_s=860)
    assert found["points"] == 1, log


def crashed(*words: str, limit_s: float = LIMIT_S) -> tuple[dict[str, Any], str]:
    """What the command found, and its log; it found nothing wrong."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.crash", "--json", *words], cwd=Path(__file__).parents[2], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            told, log = process.communicate(timeout=limit_s)
        except BaseException:
            process.terminate()
            raise
    assert process.returncode == 0, log
    found: dict[str, Any] = json.loads(told)
    assert found["violations"] == 0
    return found, log
