"""Tree models without what `import xgboost` costs: a stand-in that calls the same library, where its answers are known to be equal.

The manifest of a bento says so (`fast_path`) when the training job has compared the two; else the first start in an environment has
them compared beside it, and the next ones know. EKIBEN_EXACT=1 leaves xgboost as it is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import library
from .library import Found

__all__ = ["KIND", "install", "is_model", "preloaded", "verdict"]

# What the stand-in does: a new number when it comes to its answers another way.
KIND = "xgboost-exact-3"
# The parts of the stand-in, as workers name them. They import and load nothing; the library is loaded by the worker.
PRELOADED = ("_ekiben_serving.trees.booster", "_ekiben_serving.trees.package")
CHECK_TIMEOUT_S = 600
log = logging.getLogger("ekiben.serving")


def install(bento: Path) -> None:
    """Have `import xgboost` give the stand-in from now on, if the trees in `bento` are known to be answered equally by it.

    To be called before the service is imported, with the bento's environment on `sys.path`. Otherwise all stays as it is; the log
    says why where it could be otherwise.
    """
    if (found := _preferred(bento)) is None:
        return
    from . import handover, package

    package.put_in_place(found)
    place = _place(bento, found)
    handover.on_load(lambda why: _keep(place, {"needs": why}))


def preloaded(bento: Path, modules: list[str]) -> list[str]:
    """Of what a parent of workers would import for `bento`, what is needed: where the stand-in is used that, and not xgboost."""
    stated = _read(bento / "ekiben.json").get("fast_path")
    if not isinstance(stated, dict) or stated.get("kind") != KIND:
        return modules
    return [*PRELOADED, *(name for name in modules if name.partition(".")[0] != "xgboost")]


def verdict(folder: Path) -> dict[str, Any] | None:
    """Does the stand-in answer as xgboost does for the models below `folder`? None where there are none. Takes some seconds.

    Raises ImportError without xgboost, and what xgboost raises.
    """
    models = sorted(_models(folder))
    if not models or library.find() is None:
        return None
    from . import parity

    return parity.compare(folder, models)


def _preferred(bento: Path) -> Found | None:
    """The library that the stand-in would use for `bento`, or None when xgboost itself is to predict."""
    if os.environ.get("EKIBEN_EXACT", "0") not in ("", "0"):
        return None
    models = sorted(_models(bento / "src" / "model"))
    found = library.find() if models else None
    if found is None:
        return None
    place = _place(bento, found)
    known = _known(place)
    if needs := known.get("needs"):
        log.info("xgboost itself predicts: the last time the service needed it for %s", needs)
        return None
    for verdict in (_read(bento / "ekiben.json").get("fast_path"), known):
        if isinstance(verdict, dict) and _is_about(verdict, found, models):
            if verdict["max_difference"] <= verdict["bound"]:
                return found
            log.warning(
                "xgboost itself predicts: the fast path differs by %g, its bound is %g",
                verdict["max_difference"],
                verdict["bound"],
            )
            return None
    _compare_beside(bento, models, place)
    return None


def is_model(path: Path) -> bool:
    """Is this file a model as XGBoost saves it, in UBJSON or JSON?"""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError:
        return False
    return head[:1] == b"{" and b"learner" in head


def _models(below: Path) -> Iterator[str]:
    for folder, _, names in os.walk(below):
        for name in names:
            if is_model(path := Path(folder, name)):
                yield path.relative_to(below).as_posix()


def _is_about(verdict: dict[str, Any], found: Found, models: list[str]) -> bool:
    """Is it a verdict on this stand-in, this library and these models?"""
    return (
        verdict.get("kind") == KIND
        and verdict.get("library") == f"xgboost {found.version}"
        and verdict.get("models") == models
        and all(isinstance(verdict.get(name), int | float) for name in ("bound", "max_difference"))
    )


def _place(bento: Path, found: Found) -> Path | None:
    """Where this user's machine remembers what is known of the bento with this library; None where there is no place."""
    seal = hashlib.sha256(f"{KIND}\n{found.path}\n{found.version}\n".encode())
    for name in ("bento.yaml", "ekiben.json"):
        if (path := bento / name).is_file():
            seal.update(path.read_bytes())
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache, "ekiben", "trees", f"{seal.hexdigest()[:32]}.json") if os.path.isabs(cache) else None


def _known(place: Path | None) -> dict[str, Any]:
    return {} if place is None else _read(place)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _keep(place: Path | None, known: dict[str, Any]) -> bool:
    """Remember it, whole or not at all; False where that cannot be."""
    if place is None:
        return False
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, fresh = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=place.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(known, file)
        os.replace(fresh, place)
    except OSError:
        return False
    return True


def _compare_beside(bento: Path, models: list[str], place: Path | None) -> None:
    """Compare in a process of its own, for those who come after; nobody waits for it."""
    if not _keep(place, {"comparing": True}):
        log.info(
            "xgboost itself predicts: nothing can be kept in the user's cache, where a comparison would be remembered"
        )
        return
    program = "import sys; sys.path.append(sys.argv[1]); from trees import parity; parity.main(sys.argv[2:])"
    command = [
        sys.executable,
        "-P",
        "-c",
        program,
        str(Path(__file__).parents[1]),
        str(bento / "src" / "model"),
        *models,
    ]
    log.info("xgboost itself predicts this time: the fast path is compared with it for the next")

    def compare() -> None:
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=CHECK_TIMEOUT_S, check=True, text=True
            )
            _keep(place, json.loads(done.stdout.splitlines()[-1]))
        except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
            log.warning("the fast path could not be compared with xgboost: %s", error)

    threading.Thread(target=compare, name="compare-trees", daemon=True).start()
