"""`python -m tests.crash --seed 1 --points 100 --json`: kill -9 at that many points of the whole loop, and say what came of it.

With `--provider aws`: at that many points of `up` on an emulated AWS; with `kubernetes`, on this user's own cluster.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time

from tests.crash.clouds import CLOUDS
from tests.crash.loop import Loop
from tests.crash.plan import plan, plan_of_ups
from tests.crash.ups import Ups


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument(
        "--seed", type=int, default=1, help="the same seed kills the same victims after the same delays"
    )
    parser.add_argument("--points", type=int, default=100, help="how many are killed")
    parser.add_argument("--provider", choices=("local", *CLOUDS), default="local", help="where the project runs")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of text")
    parser.add_argument("--quiet", action="store_true", help="nothing on stderr while it runs")
    args = parser.parse_args()
    began = time.monotonic()

    def say(line: str) -> None:
        args.quiet or print(f"[{time.monotonic() - began:6.1f}] {line}", file=sys.stderr, flush=True)

    local = args.provider == "local"
    loop = Loop(say) if local else Ups(CLOUDS[args.provider](), say)
    os.environ["TMPDIR"] = str(loop.temporary)
    tempfile.tempdir = None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cycles = (plan if local else plan_of_ups)(args.seed, args.points)
    try:
        for number, points in enumerate(cycles):
            loop.cycle(number, points)
    finally:
        loop.end()
    found = {
        "seed": args.seed,
        "points": sum(loop.killed.values()),
        "missed": len(loop.missed),
        "victims": dict(sorted(loop.killed.items())),
        "cycles": len(cycles),
        **dict(sorted(loop.totals.items())),
        "violations": len(loop.violations),
        "wall_s": round(time.monotonic() - began),
    }
    if args.json:
        print(json.dumps(found))
    else:
        print(", ".join(f"{key}: {value}" for key, value in found.items()))
    if loop.violations:
        print("\n".join(loop.violations), file=sys.stderr)
        print(f"The project is kept: {loop.root}", file=sys.stderr)
        return 1
    shutil.rmtree(loop.root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
