"""The Python environment that a bento's locked requirements ask for.

The interpreter that runs the station is used when it has every pin; else an environment is made, once, in the user's cache.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import importlib.metadata
import logging
import os
import secrets
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from ekiben.errors import ModelFailed, NotFound, SpecError
from ekiben.folder import abandoned
from ekiben.packing.source import cache_dir

__all__ = ["find_uv", "interpreter", "lock_of", "modules", "requirements", "unmet"]

INSTALL_S = 1800.0
# The compiled parts of the lean server (ekiben/serving), which a bento's lock need not name.
SERVER = ("httptools", "uvloop", "orjson")
TAIL_LINES = 20
log = logging.getLogger("ekiben.station")


def lock_of(bento: Path) -> Path:
    """The locked requirements of a bento; the file may be absent."""
    folder = bento / "env" / "python"
    locked = folder / "requirements.lock.txt"
    return locked if locked.is_file() else folder / "requirements.txt"


def interpreter(lock: Path, *, cache: Path | None = None) -> Path:
    """A Python that has what `lock` pins; makes the environment where there is none (this may take minutes).

    Raises ModelFailed, with what the installer said, when the pins cannot be installed; NotFound without `uv`.
    """
    text = lock.read_text(encoding="utf-8") if lock.is_file() else ""
    missing = unmet(requirements(text))
    if not missing:
        return Path(sys.executable)
    version = ".".join(map(str, sys.version_info[:3]))
    lent = " ".join(f"{each.name}=={each.version}" for each in _server())
    name = hashlib.sha256(f"{version}\n{text}\n{lent}".encode()).hexdigest()[:32]
    home = (cache or cache_dir()) / "environments"
    python = home / name / "bin" / "python"
    if not python.exists():
        log.info("an environment is made for %s, because %s is not at hand", lock, ", ".join(missing[:3]))
        _make(home, name, lock)
    return python


def requirements(text: str) -> list[Requirement]:
    """The requirements in a pip file, without its options and hashes. Raises SpecError for a line that is none."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        line = line.split(" #")[0].split("--hash")[0].strip()
        if not line or line.startswith(("#", "-")):
            continue
        try:
            found.append(Requirement(line))
        except InvalidRequirement as error:
            raise SpecError(f"A requirements.txt has the line {line!r}: {error}.") from error
    return found


def unmet(wanted: list[Requirement]) -> list[str]:
    """Those that this interpreter does not have, markers considered."""
    missing = []
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            have = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(str(requirement))
            continue
        if requirement.url or not requirement.specifier.contains(have, prereleases=True):
            missing.append(str(requirement))
    return missing


def modules(source: Path) -> list[str]:
    """The third-party modules that the Python files in `source` import, submodules by their full names."""
    local = {path.stem for path in source.iterdir()} if source.is_dir() else set()
    found: set[str] = set()
    for path in sorted(source.rglob("*.py")):
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue  # the worker shows it, with its traceback
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module)
    return sorted(
        name for name in found if (top := name.partition(".")[0]) not in sys.stdlib_module_names and top not in local
    )


def find_uv(operation: str) -> str:
    """The path of uv: on PATH, or beside this interpreter. Raises NotFound, which says what for."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        raise NotFound("local", operation, "`uv` is not installed", "Install it: pip install uv")
    return uv


def _make(home: Path, name: str, lock: Path) -> None:
    uv = find_uv("make the environment of a bento")
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in home.glob(".*"):
        if abandoned(left):
            shutil.rmtree(left, ignore_errors=True)
    fresh = home / f".{name}.{secrets.token_hex(4)}"
    fresh.mkdir()
    held = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        for command in (
            [uv, "venv", "--quiet", "--relocatable", "--python", sys.executable, str(fresh)],
            [uv, "pip", "sync", "--quiet", "--compile-bytecode", "--python", str(fresh / "bin" / "python"), str(lock)],
        ):
            _install(command, lock, held)
        _lend(fresh)
        try:
            fresh.rename(home / name)
        except OSError:
            if not (home / name).exists():  # else another deployment was quicker
                raise
    finally:
        os.close(held)
        shutil.rmtree(fresh, ignore_errors=True)


def _install(command: list[str], lock: Path, held: int) -> None:
    """Run uv. It holds the lock on the folder, too: so nobody sweeps that before it has ended."""
    env = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL, timeout=INSTALL_S, check=False,
            pass_fds=[held],
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ModelFailed(f"local: cannot install {lock}: it took longer than {INSTALL_S:g} s.") from error
    if done.returncode:
        raise ModelFailed(
            f"local: cannot install {lock}: `uv {command[1]}` failed. "
            "Check that each is pinned (name==version) and that the package index can be reached.",
            tail="\n".join(done.stderr.splitlines()[-TAIL_LINES:]),
        )


def _server() -> list[importlib.metadata.Distribution]:
    """What this interpreter has of the server's parts."""
    found = []
    for name in SERVER:
        with suppress(importlib.metadata.PackageNotFoundError):
            found.append(importlib.metadata.distribution(name))
    return found


def _lend(environment: Path) -> None:
    """Copy the server's parts beside what the lock asks for, but where it asks for them itself: it is the same Python."""
    site = next(environment.glob("lib/python*/site-packages"))
    for distribution in _server():
        if (site / distribution.name).exists():
            continue
        for file in distribution.files or []:
            if ".." not in file.parts:
                target = site / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(str(distribution.locate_file(file)), target)
