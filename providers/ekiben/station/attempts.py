"""What follows on the end of an attempt: another one, or the end of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ekiben.records import Interruption, Run

__all__ = ["RESUMES", "after"]

# Where something ends every attempt of a spot run, such as the kernel for lack of memory, it must not go on for ever.
RESUMES = 20


def after(
    run: Run, attempt: int, ask: Mapping[str, Any], status: Mapping[str, Any], *, cancelled: bool
) -> tuple[Run, dict[str, Any]]:
    """The run after its attempt number `attempt`, and the status that the run now has: pending where it is to be started again.

    ask: the run's retries and whether it is spot; status: how the attempt ended, with lost_s where it was interrupted.
    """
    state, reason, spot = status["state"], status["reason"], bool(ask.get("spot"))
    if state == "interrupted":
        one = Interruption(at=status["ended_at"], reason=reason, lost_s=status["lost_s"])
        run = replace(run, interruptions=[*run.interruptions, one])
        if cancelled:
            return run, {**status, "state": "cancelled", "reason": "cancelled"}
    if state == "succeeded" or cancelled:
        return run, dict(status)
    times = len(run.interruptions)
    if state == "interrupted" and spot:
        again = times <= RESUMES
        final = f"it was interrupted {times} times, at last: {reason}"
    else:
        again = attempt - (times if spot else 0) <= ask["retries"]
        final = reason
    how = "was interrupted" if state == "interrupted" else "failed"
    if again:
        return run, {"state": "pending", "reason": f"attempt {attempt} {how}: {reason}"}
    return run, {**status, "state": "failed", "reason": final}
