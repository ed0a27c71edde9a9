"""Packages with compiled code for another machine: what of an installed package a cloud's function needs beside its own code."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from ekiben.errors import MissingDependency, NotFound, Unavailable
from ekiben.packing.archive import disk, files
from ekiben.packing.source import cache_dir, skipped

__all__ = ["vendored"]

INSTALL_S = 300


def vendored(name: str, *, machine: str = "x86_64", python: str = "3.13") -> dict[str, Path]:
    """The files of the installed version of a package, as `python` on Linux wants them: "obstore/store.py" -> path.

    Those that are installed here, where their wheel is for that machine and any later Python; else fetched with uv, once, into the
    cache. Raises MissingDependency where the package is not installed, NotFound without uv, Unavailable when it cannot be fetched.
    """
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError as error:
        raise MissingDependency(name, "iac") from error
    tags = re.findall(r"^Tag: (.+)$", found.read_text("WHEEL") or "", re.MULTILINE)
    if any(fits(tag, machine, python) for tag in tags):
        root = Path(str(found.locate_file("")))
        named = {file.parts[0] for file in found.files or () if file.suffix == ".py" and len(file.parts) > 1}
        return {f"{top}/{inner}": path for top in sorted(named) for inner, path in files(root / top, _spare).items()}
    folder = cache_dir() / "wheels" / f"{name}-{found.version}-{machine}-{python}"
    if not folder.exists():
        _fetch(f"{name}=={found.version}", folder, machine, python)
    return files(folder, _spare)


def fits(tag: str, machine: str, python: str) -> bool:
    """Does a wheel with this tag run on Linux on that machine, with that Python?"""
    interpreter, abi, platform = tag.split("-")
    if abi == "none" and platform == "any":
        return True
    least = re.fullmatch(r"cp3(\d+)", interpreter)
    if least is None or not re.fullmatch(rf"manylinux\w*_{machine}", platform):
        return False
    minor = int(python.partition(".")[2])
    return int(least[1]) <= minor if abi == "abi3" else int(least[1]) == minor


def _spare(name: str) -> bool:
    """What nobody needs at run time."""
    return skipped(name) or name.endswith((".pyi", ".dist-info")) or name == "py.typed"


def _fetch(requirement: str, folder: Path, machine: str, python: str) -> None:
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        raise NotFound("ekiben", f"fetch {requirement}", "`uv` is not installed", "Install it: pip install uv")
    with disk("keep a package in", folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as temporary:
            fresh = Path(temporary) / "site"
            command = [
                uv, "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--target", str(fresh),
                "--python-platform", f"{machine}-manylinux_2_28", "--python-version", python, requirement,
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
            if done.returncode:
                raise Unavailable(
                    "ekiben", f"fetch {requirement} for Linux on {machine}", done.stderr.strip() or f"uv: {done.returncode}",
                    "Repeat it where a package index can be reached",
                )  # fmt: skip
            if not folder.exists():
                fresh.replace(folder)
