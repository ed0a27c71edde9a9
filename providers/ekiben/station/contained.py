"""What the supervisors of training runs in containers share: a log that is printed, too, attempts that are kept, the code's own
copy, an interpreter with what the lock pins. Standard library only.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from ekiben.errors import EkibenError, TrainingFailed
from ekiben.packing.archive import files
from ekiben.records import now
from ekiben.station import processes
from ekiben.station.nodes import Verdict
from ekiben.station.output import JobLog

__all__ = ["Attempts", "Shown", "empty", "environment_of", "failed_by", "has_files", "interpreter", "own_copy", "write"]

INSTALL_TIMEOUT_S = 1800
TAIL_CHARS = 1500
ENVIRONMENT = (
    "import json, pathlib, sys; from ekiben.lineage.machine import environment; "
    "print(json.dumps(environment(pathlib.Path(sys.argv[1]))))"
)


class Shown(JobLog):
    """The run's log, which is printed, too: what a container prints is shown while it goes on."""

    def write(self, block: bytes) -> None:
        super().write(block)
        with contextlib.suppress(OSError):
            sys.stdout.buffer.write(block)
            sys.stdout.buffer.flush()


class Attempts:
    """What has become of each attempt of this run: a file that is kept for the next one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self.all = [dict(one) for one in json.loads(path.read_text(encoding="utf-8"))]
        except (OSError, ValueError):
            self.all = []
        # One that did not come to its end was cut short together with its machine.
        for one in self.all:
            one.setdefault("state", "interrupted")

    def begin(self) -> dict[str, Any]:
        self.all.append({"started_at": now()})
        self.save()
        return self.all[-1]

    def save(self) -> None:
        write(self._path, [{k: v for k, v in one.items() if k != "working_since"} for one in self.all])

    @property
    def failures(self) -> int:
        return sum(one["state"] == "failed" for one in self.all)

    @property
    def lost_s(self) -> float:
        return float(sum(one.get("lost_s", 0.0) for one in self.all))


def interpreter(lock: Path, home: Path, wheels: Path) -> str:
    """A Python with what the lock says: the image's own where it has it, else one made in `home`. Raises TrainingFailed.

    wheels: a folder with what the lock names, where an index is not to be asked; it need not be there.
    """
    if not lock.is_file() or _has_all(lock):
        return sys.executable
    python = str(home / "bin" / "python")
    found = ["--no-index", "--find-links", str(wheels)] if wheels.is_dir() else []
    if importlib.util.find_spec("pip"):
        install = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            python,
            "install",
            "--no-input",
            "--disable-pip-version-check",
            "--no-compile",  # what the job imports is compiled then, which is little of what it has
        ]
    else:
        install = ["uv", "pip", "install", "--python", python]
    make = [sys.executable, "-m", "venv", "--without-pip", str(home)]
    # Where the image says that packages go somewhere else, they must not.
    env = {name: value for name, value in os.environ.items() if name not in ("PIP_TARGET", "PIP_PREFIX", "PYTHONPATH")}
    for step in (make, [*install, "--no-cache-dir", "--quiet", "-r", str(lock), *found]):
        try:
            done = subprocess.run(
                step, env=env, capture_output=True, text=True, errors="replace", timeout=INSTALL_TIMEOUT_S, check=False
            )
            said = "" if done.returncode == 0 else done.stderr.strip() or f"it ended with status {done.returncode}"
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
        if said:
            raise TrainingFailed("its requirements.txt could not be installed", tail=said[-TAIL_CHARS:])
    return python


def _has_all(lock: Path) -> bool:
    """Has the image's own Python all that is locked? Where it lacks what it takes to find out, no."""
    try:
        from ekiben.station.environments import requirements, unmet
    except ImportError:
        return False
    return not unmet(requirements(lock.read_text(encoding="utf-8")))


def environment_of(python: str, lock: Path, library: Path) -> dict[str, Any]:
    """The environment of the interpreter that runs the job, as lineage tells it. `library`: where it finds Ekiben."""
    env = processes.child_env({"PYTHONPATH": str(library)})
    told = subprocess.run([python, "-c", ENVIRONMENT, str(lock)], env=env, capture_output=True, timeout=60, check=True)
    return dict(json.loads(told.stdout))


def own_copy(bundle: Path, into: Path) -> Path:
    """The code as the run's own files, which it may write beside: what was unpacked is read-only."""
    shutil.rmtree(into, ignore_errors=True)
    for name, path in files(bundle).items():
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        target.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
    return into


def has_files(folder: Path) -> bool:
    """Is there any file below the folder?"""
    return any(path.is_file() for path in folder.rglob("*"))


def failed_by(error: Exception) -> Verdict:
    """How an attempt has ended whose supervisor could not go on. An error that is not of ours is printed with its traceback."""
    if isinstance(error, EkibenError):
        return Verdict(state="failed", reason=str(error))
    traceback.print_exception(error)
    return Verdict(state="failed", reason=f"its supervisor failed: {type(error).__name__}: {error}")


def empty(folder: Path) -> None:
    """What an earlier attempt left goes; the folder itself stays."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    fresh = path.with_name(f".{path.name}.tmp")
    fresh.write_text(json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True), encoding="utf-8")
    fresh.replace(path)
