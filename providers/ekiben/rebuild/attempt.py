"""One run of a job in a folder, without a station: `python -m ekiben.rebuild.attempt FOLDER`.

FOLDER/run.json says what to run. FOLDER/verdict.json says how it ended. SIGTERM, and the end of who started it, end the job with
all its processes. It is a process of its own because it takes in what the job leaves behind, and ends that.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from ekiben.station import processes
from ekiben.station.nodes import Verdict, start, watch
from ekiben.station.output import JobLog

__all__ = ["main"]


def main(folder: Path) -> None:
    """Run the job, and leave its verdict."""
    starter, told = os.getppid(), list[int]()
    processes.adopt_orphans()
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    # At a terminal Ctrl-C reaches this process too; who started it then ends it in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def asked() -> Verdict | None:
        return Verdict(state="cancelled", reason="cancelled") if told or os.getppid() != starter else None

    ask = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    nodes = start(folder, folder / "code", ask, JobLog(folder / "log.txt"))
    verdict = watch(nodes, folder, ask, asked)
    fresh = folder / ".verdict.json.tmp"
    fresh.write_text(json.dumps({"state": verdict.state, "reason": verdict.reason}), encoding="utf-8")
    fresh.rename(folder / "verdict.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
