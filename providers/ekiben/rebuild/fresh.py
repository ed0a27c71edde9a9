"""A fresh environment from what a run recorded: its Python, and its packages at their versions."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ekiben.errors import ProviderError, SpecError
from ekiben.lineage.lock import normal, pins, recorded
from ekiben.station import processes
from ekiben.station.environments import find_uv

__all__ = ["differences", "make", "offer_library"]

INSTALL_S = 1800.0
LOOK_S = 60
TAIL_LINES = 12

PROGRAM = "import json; from ekiben.lineage import environment; print(json.dumps(environment()))"


def make(folder: Path, lock: str, environment: Mapping[str, Any], others: Sequence[str]) -> Path:
    """An environment in `folder`; the path of its Python.

    lock: the run's, of which hashes are demanded where it has them. environment: as the run recorded it, whose versions hold for
    what the lock leaves open, and for everything where there is no lock. others: requirements ("numpy==2.3.1") instead of the
    recorded ones. Raises ProviderError with what the installer said; SpecError for another requirement that is not one version.
    """
    given = _others(others)
    python = folder / "environment" / "bin" / "python"
    _python(python.parents[1], str(environment.get("python", "")))
    held = folder / "recorded.txt"
    held.write_text(_without(recorded(environment), given), encoding="utf-8")
    wanted = folder / "requirements.txt"
    options = ["--python", str(python)]
    if given:
        override = folder / "instead.txt"
        override.write_text("".join(f"{one}\n" for one in others), encoding="utf-8")
        options += ["--override", str(override)]
        lock = re.sub(r"\s*\\?\s--hash[=\s]\S+", "", lock)
    if "--hash" in lock:
        wanted.write_text(lock, encoding="utf-8")
        _uv("pip", "sync", "--require-hashes", *options, str(wanted))
    elif pins(lock) or re.search(r"^[A-Za-z]", lock, re.MULTILINE):
        wanted.write_text(lock, encoding="utf-8")
        _uv("pip", "install", *options, "-r", str(wanted), "-c", str(held))
    else:
        wanted.write_text(recorded(environment), encoding="utf-8")
        _uv("pip", "install", "--no-deps", *options, "-r", str(wanted))
    return python


def offer_library(into: Path) -> Path:
    """A folder for PYTHONPATH from which a job imports `ekiben` (its job module), and nothing else of ours."""
    into.mkdir(exist_ok=True)
    (into / "ekiben").symlink_to(Path(__file__).resolve().parents[1], target_is_directory=True)
    return into


def differences(python: Path, library: Path, before: Mapping[str, Any], cpus: int) -> list[dict[str, str]]:
    """What differs from the environment of the run, of what can change a model: [{"what", "recorded", "now"}].

    cpus: how many the run was given. Packages that the run could have imported and this environment does not have are none.
    """
    env = processes.child_env({"PYTHONPATH": str(library)})
    try:
        told = subprocess.run([str(python), "-c", PROGRAM], env=env, capture_output=True, timeout=LOOK_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise ProviderError("ekiben", "look into the environment that was made", type(error).__name__) from error
    now: dict[str, Any] = json.loads(told.stdout)
    pairs = [(what, before.get(what), now.get(what)) for what in ("python", "machine", "cpu")]
    pairs.append(("cpus", min(cpus, int(before.get("cpus") or cpus)), min(cpus, int(now["cpus"]))))
    pairs.append(("gpus", _names(before), _names(now) if _names(before) else ""))
    packages = before.get("packages") or {}
    pairs += [(name, packages.get(name, "none"), version) for name, version in now["packages"].items()]
    return [
        {"what": what, "recorded": str(old), "now": str(new)}
        for what, old, new in pairs
        if old is not None and old != new
    ]


def _python(home: Path, recorded_python: str) -> None:
    """An empty environment of the recorded version of Python, else of the same minor version."""
    version = recorded_python.rpartition(" ")[2]
    here = ".".join(map(str, sys.version_info[:3]))
    asked = [sys.executable] if version in ("", here) else [version, ".".join(version.split(".")[:2])]
    for i, request in enumerate(asked):
        try:
            _uv("venv", "--no-project", "--clear", "--python", request, str(home))
        except ProviderError:
            if i == len(asked) - 1:
                raise
        else:
            return


def _others(others: Sequence[str]) -> set[str]:
    found = set()
    for one in others:
        named = pins(one)
        if len(named) != 1 or not re.fullmatch(r"[^\s;,*]+", one):
            raise SpecError(f"--with {one!r} is not NAME==VERSION.")
        found.add(named[0].name)
    return found


def _without(lines: str, names: set[str]) -> str:
    return "".join(f"{line}\n" for line in lines.splitlines() if normal(line.partition("==")[0]) not in names)


def _names(environment: Mapping[str, Any]) -> str:
    return ", ".join(str(gpu.get("name", "")) for gpu in environment.get("gpus") or ())


def _uv(*arguments: str) -> None:
    operation = "make the environment of the run again"
    env = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}
    try:
        done = subprocess.run(
            [find_uv(operation), "--quiet", *arguments], env=env, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=INSTALL_S, check=False, encoding="utf-8", errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ProviderError("ekiben", operation, f"it took longer than {INSTALL_S:g} s") from error
    if done.returncode:
        said = "\n".join(done.stderr.strip().splitlines()[-TAIL_LINES:])
        raise ProviderError(
            "ekiben", operation, f"uv could not: {said.rstrip('.')}",
            "Is the package index reachable, and does it still have these versions? Try others with --with NAME==VERSION",
        )  # fmt: skip
