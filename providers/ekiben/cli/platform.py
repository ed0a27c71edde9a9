"""Finding the platform that a verb is about."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ekiben.errors import SpecError
from ekiben.records import Platform
from ekiben.runtime import Runtime, connect

__all__ = ["keep", "project", "runtime", "stack_name", "stacks", "state_dir"]

STACK = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", re.ASCII)


def runtime(stack: str) -> Runtime:
    """The runtime of the stack. `--stack` wins over EKIBEN_PLATFORM, which wins over the folder. Raises SpecError."""
    if not stack and os.environ.get("EKIBEN_PLATFORM"):
        return connect()
    path = state_dir(stack) / "platform.json"
    if path.exists():
        from ekiben.emulators.stacks import enter, forgotten

        if others := enter(project(), path.parent.name):
            raise forgotten(path.parent.name, others[0])
        return connect(path)
    there = [name for name in stacks() if (project() / ".ekiben" / name / "platform.json").exists()]
    raise SpecError(
        f"There is no platform for the stack {path.parent.name!r} in {project()}"
        + (f"; there is: {', '.join(there)}. Choose it with --stack" if there else "")
        + ". Make it with `ekiben up`, or set EKIBEN_PLATFORM to a platform record (JSON or a file)."
    )


def keep(root: Path, stack: str, record: Mapping[str, Any] | None) -> None:
    """Write the stack's platform record where `runtime` finds it; None takes it away."""
    path = root / ".ekiben" / stack / "platform.json"
    if record is None:
        path.unlink(missing_ok=True)
        with suppress(OSError):  # it is not there, or has what the program asked to retain
            path.parent.rmdir()
        return
    text = Platform.from_dict(record).to_json() + "\n"
    with suppress(OSError):
        if path.read_text(encoding="utf-8") == text:
            return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def project() -> Path:
    """The project's root: the nearest folder, from here upwards, that has Pulumi.yaml or a state folder; else this one."""
    try:
        here = Path.cwd()
    except OSError as error:
        raise SpecError(
            f"The current folder cannot be read: {error.strerror}. Change to your project's folder."
        ) from error
    for folder in (here, *here.parents):
        if (folder / "Pulumi.yaml").is_file() or any(folder.glob(".ekiben/*/platform.json")):
            return folder
    return here


def stacks() -> list[str]:
    """The stacks that have a state folder here."""
    folder = project() / ".ekiben"
    return sorted(path.name for path in folder.glob("[!.]*") if path.is_dir())


def stack_name(stack: str) -> str:
    """The stack's name: what was given, EKIBEN_STACK, the only one with a platform here, or "local"."""
    name = stack or os.environ.get("EKIBEN_STACK", "")
    if not name:
        there = [path.parent.name for path in project().glob(".ekiben/*/platform.json")]
        name = there[0] if len(there) == 1 else "local"
    if not STACK.fullmatch(name):
        raise SpecError(
            f"The stack {name[:80]!r} is no stack's name: use letters, digits, dots, dashes and underscores."
        )
    return name


def state_dir(stack: str) -> Path:
    return project() / ".ekiben" / stack_name(stack)
