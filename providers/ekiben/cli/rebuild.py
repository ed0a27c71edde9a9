"""rebuild: make a version again from its lineage, and say whether it is the same."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ekiben.cli import options, show
from ekiben.cli.lineage import Ref, by_number
from ekiben.cli.platform import runtime
from ekiben.errors import MissingDependency, SpecError

__all__ = ["register"]

NOT_EQUAL = 8
# Where `ekiben.rebuild.making` has its own; that module is not for `--help` to load.
BOUND = 1e-6


def register(app: typer.Typer) -> None:
    app.command()(rebuild)


def rebuild(
    ref: Ref,
    other: Annotated[
        list[str] | None, typer.Option("--with", metavar="NAME==VERSION", help="A package instead of the recorded one.")
    ] = None,
    bound: Annotated[float, typer.Option("--bound", help="How far a number of an answer may differ.")] = BOUND,
    keep: Annotated[
        str, typer.Option("--keep", metavar="FOLDER", help="Keep what was made: model, output, log, environment.")
    ] = "",
    registry: options.Registry = "",
    json: options.Json = False,
    stack: options.Stack = "",
) -> None:
    """Make a version again from what its lineage recorded, and compare.

    A fresh environment is made from the run's lock, the code and the data are fetched and held against their digests, and
    the job is run with the same parameters and seeds. The model must then be equal byte for byte where XGBoost on the CPU
    wrote it and nothing differs from the run's environment; otherwise its answers must be, within --bound (absolute, or
    relative above 1). Exits with 8 when it is not the same. Nothing is registered.

    \b
    Examples:
      ekiben rebuild employment:1
      ekiben rebuild employment@champion --with xgboost-cpu==3.2.0 --bound 1e-4
      ekiben rebuild employment:1 --keep rebuilt --json
    """
    try:
        from ekiben.rebuild import rebuild as make
    except ImportError as error:
        raise MissingDependency(error.name or "a package", "local") from error

    used = runtime(stack)
    version = used.registry(registry).version(by_number(ref))
    with _folder(keep) as folder:
        made = make(used, version, folder, others=tuple(other or ()), bound=bound, on_step=_step)
    if json:
        show.to_json(made)
    else:
        _print(made)
    if not made["equal"]:
        raise typer.Exit(NOT_EQUAL)


@contextlib.contextmanager
def _folder(keep: str) -> Iterator[Path]:
    """The folder `keep`, new or empty; else one in the user's cache, gone afterwards, with what rebuilds that were killed left."""
    if keep:
        kept = Path(keep).resolve()
        if kept.exists() and (not kept.is_dir() or any(kept.iterdir())):
            raise SpecError(f"--keep {keep!r} is there and is not an empty folder.")
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        show.say(f"Kept: {kept}")
        return
    import platformdirs

    home = Path(platformdirs.user_cache_dir("ekiben")) / "rebuilds"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _held(home):
        for left in home.iterdir():
            with contextlib.suppress(OSError), _held(left / "lock", wait=False):
                _clear(left)
        folder = Path(tempfile.mkdtemp(dir=home))
        (folder / "lock").touch()
        alive = contextlib.ExitStack()
        alive.enter_context(_held(folder / "lock"))
    with alive:
        try:
            yield folder
        finally:
            _clear(folder)


@contextlib.contextmanager
def _held(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a file or a folder. Raises BlockingIOError when another has it and `wait` is false."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(handle)


def _clear(folder: Path) -> None:
    """Delete a folder with its read-only parts."""
    for at, _, _ in os.walk(folder):
        with contextlib.suppress(OSError):
            os.chmod(at, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


def _step(step: str, detail: str) -> None:
    show.say(f"{step}: {detail}")


def _print(made: Mapping[str, Any]) -> None:
    show.table(
        ("file", "recorded", "rebuilt"),
        [(file["name"], file["recorded"][:12] or "none", file["rebuilt"][:12] or "none") for file in made["files"]],
        "The model has no files.",
    )
    moved = [
        (name, _number(pair["recorded"]), _number(pair["rebuilt"]))
        for name, pair in made["metrics"].items()
        if pair["recorded"] != pair["rebuilt"]
    ]
    if moved:
        show.line()
        show.table(("metric", "recorded", "rebuilt"), moved)
    if made["differences"]:
        show.line()
        rows = [(one["what"], one["recorded"], one["now"]) for one in made["differences"]]
        show.table(("environment", "recorded", "now"), rows)
    show.line()
    colour = "green" if made["equal"] else "red"
    show.line(f"{made['version']} is {show.paint(made['verdict'], colour)}: {made['why']}.")


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"
