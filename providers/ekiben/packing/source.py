"""Bundles of source folders: training code, and functions with the part of Ekiben that they run on."""

from __future__ import annotations

import ast
import os
import stat
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from ekiben.errors import AccessDenied, SpecError
from ekiben.packing.archive import Bundle, Content, files, write

__all__ = ["FUNCTION_LIBRARY", "bundle", "cache_dir", "function_bundle", "image_library", "job_library", "skipped"]

FUNCTION_LIBRARY = "_ekiben/"

# What of Ekiben goes wherever a part of it runs.
ANYWHERE = (
    "*.py",
    "lineage/__init__.py",
    "lineage/data.py",
    "lineage/machine.py",
    "lineage/source.py",
    "packing/archive.py",
)
# What a function needs: the run face and nothing that imports more than the standard library and obstore.
RUN_FACE = (
    *ANYWHERE,
    "packing/assemble.py",
    "release/*.py",
)
# Where the run face of each provider begins: what these import of the provider's own package goes along.
OF_PROVIDER = {
    "aws": ("aws/handler.py", "aws/runtime.py"),
    "kubernetes": (
        "kubernetes/due.py",
        "kubernetes/handler.py",
        "kubernetes/runtime.py",
        "station/calls.py",
        "station/handler.py",
        "station/output.py",
        "station/processes.py",
    ),
    "local": ("local/runtime.py", "station/client.py", "station/handler.py", "station/wire.py"),
}
# What makes a platform, what only the machine of a station or an emulator runs, and what tests are made with.
AT_HOME = frozenset(
    {
        "compaction.py",
        "components.py",
        "cost.py",
        "cron.py",
        "daemon.py",
        "declared.py",
        "forwarding.py",
        "monitoring.py",
        "programs.py",
        "specs.py",
        "testing.py",
        "whoami.py",
    }
)
# What brings the predictions of a host to their storage: servers have it, functions and jobs have no use for it.
OF_PREDICTIONS = frozenset({"compaction.py", "forwarding.py"})
# What a training job may import of Ekiben (`ekiben.job`), and what watches over its processes; the standard library alone.
JOB_FACE = (
    *ANYWHERE,
    "packing/source.py",
    "serving/trees/*.py",
    "station/attempts.py",
    "station/contained.py",
    "station/environments.py",
    "station/interruptions.py",
    "station/nodes.py",
    "station/output.py",
    "station/processes.py",
)
# What `ekiben serve` is made of, with a bento from a URI or a folder.
SERVING = (
    *ANYWHERE,
    "cli/__main__.py",
    "cli/server.py",
    "cli/spooled.py",
    "packing/fetch.py",
    "packing/source.py",
    "serving/*.py",
    "serving/standin/*.py",
    "serving/trees/*.py",
    "station/environments.py",
)
PACKAGE = Path(__file__).parents[1]
NOT_SOURCE = frozenset({"__pycache__", "venv", "node_modules", "Thumbs.db", "desktop.ini"})


def bundle(folder: Path, *, extra: Mapping[str, Content] | None = None) -> Bundle:
    """The canonical archive of a source folder, in the cache: the same source is the same archive.

    Left out: hidden files, caches and virtual environments. `extra` adds files by name, over those of the folder. Raises
    NotFound without the folder, SpecError for what cannot be packed (a link, a device, a name that does not travel).
    """
    return write({**files(folder, skipped), **(extra or {})}, cache_dir() / "bundles")


def function_bundle(folder: Path, *providers: str) -> Bundle:
    """The bundle of a function, with the run face of Ekiben under `_ekiben/`, without its prose: it runs where only obstore is
    installed.

    providers: those whose components it can use; all by default. Raises SpecError when the folder has no `main.py`.
    """
    source = files(folder, skipped)
    if "main.py" not in source:
        raise SpecError(f"The function {str(folder)!r} has no main.py: write one with `def handler(event, runtime)`.")
    return write({**source, **_function_library(providers or tuple(OF_PROVIDER))}, cache_dir() / "bundles")


def job_library(*own: str) -> Bundle:
    """The part of Ekiben that runs inside a training container, with the provider's `own` files, such as "aws/container.py", and
    what they import of their provider's.
    """
    imported = [module for one in own for module in _imported(one.partition("/")[0], [one])]
    return write({**_library((*JOB_FACE, *own, *imported), "")}, cache_dir() / "bundles")


def image_library() -> dict[str, Content]:
    """The part of Ekiben that serves inside an environment image, by the names that its files have there."""
    return {**_library(SERVING, "", AT_HOME - OF_PREDICTIONS)}


def skipped(name: str) -> bool:
    """Is this file or folder no part of a source: hidden, a cache, a virtual environment?"""
    return name.startswith(".") or name in NOT_SOURCE or name.endswith((".pyc", ".pyo", ".egg-info", "~"))


def cache_dir() -> Path:
    """Where archives, bentos and environments are kept: the user's cache; where that cannot be written, below TMPDIR.

    Raises AccessDenied when what is there in TMPDIR is another user's.
    """
    import platformdirs

    cache = Path(platformdirs.user_cache_dir("ekiben"))
    # Without a home it is no absolute path; access() knows of read-only file systems, too.
    if cache.is_absolute():
        with suppress(OSError):
            cache.mkdir(parents=True, exist_ok=True)
            if os.access(cache, os.W_OK):
                return cache
    cache = Path(tempfile.gettempdir(), f"ekiben-{os.getuid()}")
    with suppress(FileExistsError):
        cache.mkdir(mode=0o700)
    found = cache.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise AccessDenied(
            "ekiben", f"use the folder {str(cache)!r}", "others can write there",
            "Remove it, or set XDG_CACHE_HOME or TMPDIR to a folder of your own",
        )  # fmt: skip
    return cache


def _library(patterns: Iterable[str], at: str, left_out: frozenset[str] = AT_HOME) -> dict[str, Path]:
    found = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    found.update([path.with_name("__init__.py") for path in found])
    names = {path.relative_to(PACKAGE).as_posix(): path for path in found}
    return {f"{at}ekiben/{name}": path for name, path in names.items() if name not in left_out}


@cache
def _function_library(providers: tuple[str, ...]) -> dict[str, bytes]:
    """Made once for all functions of a program: it parses some sixty files."""
    from ekiben.packing.lean import lean  # a job's library has this module, and not that one

    entrances = [one for name in providers for one in OF_PROVIDER[name]]
    imported = [one for name in providers for one in _imported(name, OF_PROVIDER[name])]
    library = _library([*RUN_FACE, *entrances, *imported], FUNCTION_LIBRARY, AT_HOME | {"job.py"})
    return {name: lean(path.read_text(encoding="utf-8")).encode() for name, path in library.items()}


def _imported(package: str, entrances: Iterable[str]) -> set[str]:
    """The modules of `ekiben.PACKAGE` that these import, wherever in them, and what those import in their turn."""
    from ekiben.packing.lean import statements

    found: set[str] = set()
    waiting = {f"{package}/__init__.py", *(one for one in entrances if one.startswith(f"{package}/"))}
    while waiting:
        name = waiting.pop()
        found.add(name)
        for node in statements(ast.parse((PACKAGE / name).read_bytes())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"ekiben.{package}"):
                module = str(node.module).removeprefix("ekiben.").replace(".", "/")
                paths = [f"{module}.py", *(f"{module}/{alias.name}.py" for alias in node.names)]
                waiting.update(one for one in paths if one not in found and (PACKAGE / one).is_file())
    return found
