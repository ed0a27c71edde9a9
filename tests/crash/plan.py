"""What is killed, and when: drawn from a seed before anything runs, so that the same seed is the same plan."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["PHASES", "Phase", "Point", "plan", "plan_of_ups"]


@dataclass(frozen=True)
class Phase:
    """A part of the loop. victims: kind -> the longest delay, in seconds, from when the first of that kind is seen."""

    name: str
    victims: dict[str, float]
    engine: bool = False


ENGINE = {"engine": 8.0, "plugin": 3.0, "language": 3.0, "program": 3.0, "command": 10.0}
SERVING = {"station": 4.0, "worker": 1.0, "parent": 1.0}
TRAINING = {"station": 6.0, "call": 0.5, "node": 1.6, "supervisor": 3.0}

PHASES = (
    Phase("up", {**ENGINE, "station": 1.0}, engine=True),
    Phase("train", TRAINING),
    Phase("release", {"station": 3.0, "call": 1.5, "worker": 0.5, "parent": 0.5}),
    Phase("calls", {**SERVING, "station": 1.5}),
    Phase("again", {**TRAINING, **SERVING}),
    Phase("events", {"station": 2.0, "call": 1.0}),
    Phase("rollback", {**SERVING, "command": 0.7}),
    Phase("change", {**ENGINE, **SERVING}, engine=True),
    Phase("destroy", {"engine": 3.0, "plugin": 1.5, "command": 3.5, "station": 2.0}, engine=True),
)
MAKING_S = 0.8
EXTRA = 3
PER_CYCLE = len(PHASES) + EXTRA


@dataclass(frozen=True)
class Point:
    """Kill `victim` in the `phase` of a `cycle`, `delay_s` after it is first seen, or, when `making`, after the engine has begun to
    change something; `down_s` later the next command mends it. In a cloud, where an engine takes long and is all that there is to
    kill: when the state holds that `share` of all resources, and what comes `then`.
    """

    number: int
    cycle: int
    phase: str
    victim: str
    making: bool
    delay_s: float
    down_s: float
    share: float = 0.0
    then: str = "up"


def plan(seed: int, points: int) -> list[list[Point]]:
    """The points of each cycle, in order. A cycle is one whole loop; each phase of it has a point, and some have more."""
    rng = random.Random(seed)
    cycles: list[list[Point]] = []
    for start in range(0, points, PER_CYCLE):
        often = [phase for phase in PHASES if not phase.engine]
        phases = [*PHASES, *rng.choices(often, k=EXTRA)]
        chosen = rng.sample(phases, min(PER_CYCLE, points - start))
        chosen.sort(key=PHASES.index)
        cycles.append([_point(rng, start + i, len(cycles), phase) for i, phase in enumerate(chosen)])
    return cycles


def _point(rng: random.Random, number: int, cycle: int, phase: Phase) -> Point:
    victim = rng.choice(list(phase.victims))
    # Most of an engine's life is starting up: half of its points are aimed at the moments when something changes.
    making = phase.engine and (victim in ("station", "worker", "parent") or rng.random() < 0.5)
    delay_s = rng.uniform(0, MAKING_S if making else phase.victims[victim])
    return Point(number, cycle, phase.name, victim, making, round(delay_s, 3), round(rng.uniform(0, 1.0), 3))


def plan_of_ups(seed: int, points: int) -> list[list[Point]]:
    """An `up` for each point, killed at any moment of its work; most are the first one, some change what is there."""
    rng = random.Random(seed)
    cycles = []
    for number in range(points):
        phase = rng.choices(("up", "change"), (4, 1))[0]
        victim = rng.choices(("engine", "command", "plugin", "language", "program"), (6, 2, 1, 1, 1))[0]
        # The program has ended long before the engine has.
        share = rng.uniform(0.02, 0.3 if victim in ("language", "program") else 0.98)
        made = {"share": round(share, 3), "then": rng.choice(("up", "destroy"))}
        cycles.append([Point(number, number, phase, victim, True, round(rng.uniform(0, 0.2), 3), 0.0, **made)])
    return cycles
