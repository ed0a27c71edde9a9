"""What a child process brings with it: its descendants, the memory they hold, and how all of them are ended.

On Linux /proc tells it exactly; elsewhere `ps` tells of the process group, which a child that calls setsid leaves.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = [
    "STATION",
    "adopt_orphans",
    "child_env",
    "descendants",
    "end",
    "family",
    "held_mib",
    "kill_marked",
    "spare_the_host",
]

LINUX = sys.platform == "linux"
PAGE_BYTES = os.sysconf("SC_PAGESIZE")
PR_SET_CHILD_SUBREAPER = 36

# In the environment of the calls that a station makes, with its state directory: so those that a dead one left are found.
STATION = "EKIBEN_STATION"

# All that a child inherits: what it takes to run, and nothing that could be a secret.
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ", "LD_LIBRARY_PATH")


def child_env(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of a user's process: the few inherited names, and `extra`."""
    return {name: os.environ[name] for name in INHERITED if name in os.environ} | dict(extra)


def adopt_orphans() -> None:
    """Make this process the parent of what its descendants leave behind, so that no daemon of theirs escapes."""
    if LINUX:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def spare_the_host(pid: int) -> None:
    """When memory runs out let the kernel end this process rather than the one that watches over it."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("800", "ascii")


def descendants(pid: int) -> set[int]:
    """`pid` and what it and its children have started, as far as they live."""
    if not LINUX:
        return {one for one, group, _ in _ps() if group == pid}
    found: set[int] = set()
    queue = [pid]
    while queue:
        one = queue.pop()
        if one not in found:
            found.add(one)
            with contextlib.suppress(OSError):
                for task in os.listdir(f"/proc/{one}/task"):
                    with contextlib.suppress(OSError):
                        queue += map(int, Path(f"/proc/{one}/task/{task}/children").read_text("ascii").split())
    return {one for one in found if _alive(one)}


def family(pid: int) -> set[int]:
    """The descendants of `pid`, and the living members of the process group that it leads."""
    if not LINUX:
        return descendants(pid)
    pids = [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]
    return descendants(pid) | {one for one in pids if _group_of(one) == pid and _alive(one)}


def held_mib(pids: Iterable[int], limit_mib: float) -> float:
    """The memory that these processes hold. Pages they share are counted once where the sum passes `limit_mib`."""
    if not LINUX:
        wanted = set(pids)
        return sum(kib for pid, _, kib in _ps() if pid in wanted) / 1024
    pids = list(pids)
    resident = sum(map(_resident_bytes, pids)) / 2**20
    return resident if resident <= limit_mib else min(resident, sum(map(_proportional_bytes, pids)) / 2**20)


def end(pid: int, sig: int = signal.SIGKILL) -> None:
    """Signal the whole family of `pid`; silent where it is gone."""
    members = family(pid)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, sig)
    for member in members - {os.getpid()}:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if _group_of(member) != pid:
                os.kill(member, sig)


def kill_marked(name: str, value: str) -> int:
    """End every process whose environment has `name=value` and wait until it is gone: what a dead supervisor left. How many."""
    found: set[int] = set()
    for _ in range(100):
        marked = _marked(f"{name}={value}".encode())
        if not marked:
            break
        found |= marked
        for pid in marked:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return len(found)


def _marked(mark: bytes) -> set[int]:
    found: set[int] = set()
    if LINUX:
        for entry in os.scandir("/proc"):
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if mark in Path(entry.path, "environ").read_bytes().split(b"\0") and _alive(int(entry.name)):
                        found.add(int(entry.name))
    return found


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except OSError:
        return 0


def _alive(pid: int) -> bool:
    """Is it there, and not a zombie that waits for its parent?"""
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in (b"Z", b"X")


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0


def _proportional_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (OSError, IndexError, ValueError):
        pass
    return _resident_bytes(pid)


def _ps() -> list[tuple[int, int, int]]:
    """pid, process group and resident KiB of every process."""
    text = subprocess.run(["ps", "-A", "-o", "pid=,pgid=,rss="], capture_output=True, text=True, timeout=10, check=True)
    rows = (line.split() for line in text.stdout.splitlines())
    return [(int(row[0]), int(row[1]), int(row[2])) for row in rows if len(row) == 3]
