"""What follows on the end of an attempt, decided without a station."""

from __future__ import annotations

from typing import Any

import pytest

from ekiben.records import Run
from ekiben.station.attempts import RESUMES, after

ENDS: dict[str, dict[str, Any]] = {
    "k": {"state": "interrupted", "reason": "killed", "lost_s": 1.5, "ended_at": "2026-01-01T00:00:00Z"},
    "f": {"state": "failed", "reason": "its own fault"},
    "s": {"state": "succeeded", "reason": "", "metrics": {"auc": 1.0}},
}


def lived(ends: str, *, spot: bool = True, retries: int = 0, cancelled: bool = False) -> tuple[Run, dict[str, Any]]:
    """The run after attempts that ended so, one after another, each but the last of which was followed by another."""
    run, status = Run(id="r", training="t", state="running"), {"state": "pending"}
    for number, end in enumerate(ends, start=1):
        assert status["state"] == "pending", f"it had ended before attempt {number}"
        last = number == len(ends)
        run, status = after(run, number, {"spot": spot, "retries": retries}, ENDS[end], cancelled=cancelled and last)
    return run, status


@pytest.mark.parametrize(
    ("ends", "retries", "state", "reason"),
    [
        ("k", 0, "pending", "attempt 1 was interrupted: killed"),
        ("kks", 0, "succeeded", ""),
        ("f", 0, "failed", "its own fault"),
        ("f", 1, "pending", "attempt 1 failed: its own fault"),
        ("kfk", 1, "pending", "attempt 3 was interrupted: killed"),
        ("kfkf", 1, "failed", "its own fault"),
        ("k" * RESUMES, 0, "pending", f"attempt {RESUMES} was interrupted: killed"),
        ("k" * (RESUMES + 1), 3, "failed", f"it was interrupted {RESUMES + 1} times, at last: killed"),
        ("k" * RESUMES + "s", 0, "succeeded", ""),
    ],
)
def test_a_spot_run_goes_on_when_interrupted_and_uses_no_retry_for_it(
    ends: str, retries: int, state: str, reason: str
) -> None:
    run, status = lived(ends, retries=retries)
    assert (status["state"], status["reason"]) == (state, reason)
    assert (len(run.interruptions), run.lost_s) == (ends.count("k"), 1.5 * ends.count("k"))


@pytest.mark.parametrize(
    ("ends", "retries", "state"), [("k", 0, "failed"), ("k", 1, "pending"), ("kf", 1, "failed"), ("kk", 1, "failed")]
)
def test_without_spot_an_interruption_is_a_failure(ends: str, retries: int, state: str) -> None:
    run, status = lived(ends, spot=False, retries=retries)
    assert (status["state"], len(run.interruptions)) == (state, ends.count("k"))


@pytest.mark.parametrize(
    ("ends", "state"), [("k", "cancelled"), ("f", "failed"), ("s", "succeeded"), ("kk", "cancelled")]
)
def test_a_cancelled_run_is_not_started_again(ends: str, state: str) -> None:
    _, status = lived(ends, retries=5, cancelled=True)
    assert status["state"] == state


def test_what_a_successful_attempt_left_is_the_runs() -> None:
    run, status = lived("ks")
    assert status == ENDS["s"]
    assert run.interruptions[0].at == "2026-01-01T00:00:00Z"
