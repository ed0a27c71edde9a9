"""`python -m tests.fuzz --cpu-seconds 300`: inputs that nobody sends, to all that reads what others send."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from .engine import TARGETS, Report, campaign, guided, has_atheris, replay

KEPT = Path(".build") / "fuzz"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", choices=TARGETS, action="append", help="only this one; can be given several times")
    parser.add_argument("--cpu-seconds", type=float, default=300, help="for each target, of this process's own")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--executions", type=int, help="so many changed inputs for each target, in place of a time")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each target instead of text")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    targets = args.target or TARGETS
    if args.here:
        return _here(args, targets[0])
    # Each target has a process: what one loads would be in the way of another.
    failed = [target for target in targets if _beside(args, target)]
    return 1 if failed else 0


def _beside(args: argparse.Namespace, target: str) -> int:
    given = ["--target", target, "--cpu-seconds", str(args.cpu_seconds), "--seed", str(args.seed), "--here"]
    given += ["--json"] * args.json + ([] if args.executions is None else ["--executions", str(args.executions)])
    return subprocess.run([sys.executable, "-m", __package__, *given], check=False).returncode


def _here(args: argparse.Namespace, target: str) -> int:
    def told(report: Report) -> None:
        print(json.dumps(_figures(report)) if args.json else _text(report), flush=True)
        if report.findings:
            os._exit(1)

    if args.executions is not None:
        told(replay(target, args.executions, args.seed))
    elif has_atheris():
        guided(target, args.cpu_seconds, args.seed, told)
    else:
        told(campaign(target, args.cpu_seconds, args.seed))
    os._exit(0)  # threads and processes of the target do not keep this one


def _figures(report: Report) -> dict[str, Any]:
    findings = [{"what": each.what, "input": str(_kept(report, each.data))} for each in report.findings]
    return {
        "target": report.target, "engine": report.engine, "cpu_s": report.cpu_s, "executions": report.executions,
        "kinds": report.kinds, "findings": findings,
    }  # fmt: skip


def _text(report: Report) -> str:
    lines = [
        f"{report.target}: {report.executions} executions in {report.cpu_s} s of the processor ({report.engine}),"
        f" {report.kinds} kinds of outcome, {len(report.findings)} findings"
    ]
    for each in report.findings:
        lines.append(f"\n{each.what}\n  {_kept(report, each.data)}\n{each.traceback}")
    return "\n".join(lines)


def _kept(report: Report, data: bytes) -> Path:
    """Where an input lies that found something."""
    path = KEPT / report.target / hashlib.sha256(data).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


if __name__ == "__main__":
    sys.exit(main())
