"""The environment that a run ran in."""

from __future__ import annotations

import copy
import os
import platform
import re
import shutil
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from ekiben.lineage.data import snapshot

__all__ = ["environment"]

TIMEOUT_S = 10


def environment(lock: Path | None = None) -> dict[str, Any]:
    """Python, OS, CPU, GPUs and packages of this process: looked up once, and the same from then on. No host or user names.

    {"python", "os", "machine", "cpu", "cpus", "gpus": [{"name", "memory_mib"}], "driver", "packages": {name: version},
    "unpublished": [name], "lock_sha256"}. unpublished: packages that came from a folder or a URL, not from an index. lock_sha256:
    of the file `lock`, empty without one. What cannot be found out is empty.
    """
    there = lock is not None and lock.is_file()
    digest = snapshot({"lock": lock})["files"][0]["sha256"] if there and lock else ""
    return {**copy.deepcopy(_environment()), "lock_sha256": digest}


@cache
def _environment() -> dict[str, Any]:
    gpus, driver = _gpus()
    packages, unpublished = _packages()
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "os": _os(),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        "gpus": gpus,
        "driver": driver,
        "packages": packages,
        "unpublished": unpublished,
    }


def _os() -> str:
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        name = ""
    return f"{name}, {platform.platform()}" if name else platform.platform()


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _output("sysctl", "-n", "machdep.cpu.brand_string").strip() or platform.processor()
    named = re.search(r"^(?:model name|Model|Processor)\s*:\s*(.+)$", text, re.MULTILINE)
    return named.group(1).strip() if named else platform.processor()


def _gpus() -> tuple[list[dict[str, Any]], str]:
    fields = "--query-gpu=name,memory.total,driver_version"
    rows = [
        line.split(", ")
        for line in _output("nvidia-smi", fields, "--format=csv,noheader,nounits").splitlines()
        if line.count(", ") == 2
    ]
    gpus = [{"name": name, "memory_mib": int(mib) if mib.isdigit() else 0} for name, mib, _ in rows]
    return gpus, rows[0][2] if rows else ""


def _packages() -> tuple[dict[str, str], list[str]]:
    """Installed distributions, the first of a name on sys.path winning, as import has it; and those that no index gave."""
    found: dict[str, metadata.Distribution] = {}
    for distribution in metadata.distributions():
        named = distribution.metadata["Name"]
        if named:
            found.setdefault(re.sub(r"[-_.]+", "-", named).lower(), distribution)
    versions = {name: found[name].version for name in sorted(found)}
    return versions, [name for name in versions if found[name].read_text("direct_url.json") is not None]


def _output(*command: str) -> str:
    program = shutil.which(command[0])
    if program is None:
        return ""
    try:
        done = subprocess.run(
            [program, *command[1:]], stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False,
            encoding="utf-8", errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
