"""Places in an object as Pulumi writes them: `spec.template.spec.containers[0].image`, `metadata.labels["a/b"]`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["Path", "differences", "parsed", "put", "text", "value_at", "within"]

Path = tuple[str | int, ...]
STEP = re.compile(r"\.?([^.\[\]\"]+)|\[(\d+)\]|\[\"((?:[^\"\\]|\\.)*)\"\]|\[(\*)\]")
PLAIN = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")
MISSING = object()


def differences(old: Any, new: Any, at: Path = ()) -> Iterator[Path]:
    """The places where two values differ, as deep as they can be told; items of lists by their index."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from differences(old.get(key, MISSING), new.get(key, MISSING), (*at, key))
    elif isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            one, other = (value[index] if index < len(value) else MISSING for value in (old, new))
            yield from differences(one, other, (*at, index))
    elif old is MISSING or new is MISSING or old != new or isinstance(old, bool) != isinstance(new, bool):
        yield at


def text(path: Sequence[str | int]) -> str:
    said = ""
    for step in path:
        if isinstance(step, int):
            said += f"[{step}]"
        elif PLAIN.fullmatch(step):
            said += f".{step}" if said else step
        else:
            escaped = step.replace("\\", "\\\\").replace('"', '\\"')
            said += f'["{escaped}"]'
    return said


def parsed(said: str) -> Path:
    """The other way round; `*` stands for any one step. Raises ValueError."""
    steps: list[str | int] = []
    end = 0
    while end < len(said):
        found = STEP.match(said, end)
        if not found:
            raise ValueError(f"{said!r} is no path of properties")
        name, index, quoted, star = found.groups()
        steps.append(int(index) if index else re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else star or name)
        end = found.end()
    return tuple(steps)


def within(path: Path, above: Path) -> bool:
    """Is `path` at or below `above`, whose `*` are any step?"""
    return len(path) >= len(above) and all(two in ("*", one) for one, two in zip(path, above, strict=False))


def value_at(thing: Any, path: Path) -> Any:
    """What is there, None where nothing is."""
    for step in path:
        if isinstance(thing, Mapping):
            thing = thing.get(step)
        elif isinstance(thing, list) and isinstance(step, int) and step < len(thing):
            thing = thing[step]
        else:
            return None
    return thing


def put(thing: Any, path: Path, value: Any) -> None:
    """Set what is there, in place, where all above it is there."""
    holder = value_at(thing, path[:-1])
    if value_at(thing, path) is not None or isinstance(holder, dict):
        holder[path[-1]] = value
