"""Locks: what a requirements file pins, and one made from the versions that a run recorded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["Pin", "installed", "normal", "pins", "recorded"]

PIN = re.compile(r"([A-Za-z0-9][\w.-]*)\s*(?:\[[^\]]*\])?\s*===?\s*([^\s;,*]+)")
HASH = re.compile(r"--hash[=\s](\w+):([0-9a-fA-F]+)")


class Pin(NamedTuple):
    """A locked package: its normalised name, its version, and the (algorithm, hex digest) of the files that it may come from."""

    name: str
    version: str
    hashes: tuple[tuple[str, str], ...]


def normal(name: str) -> str:
    """The name of a package as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lock: str) -> list[Pin]:
    """What the lines of a requirements file pin; lines that pin nothing are left out. A name comes twice where markers choose."""
    found = []
    for line in re.sub(r"\\\n", " ", lock).splitlines():
        named = PIN.match(line.strip())
        if named:
            found.append(Pin(normal(named[1]), named[2], tuple(HASH.findall(line))))
    return found


def installed(lock: str, environment: Mapping[str, Any]) -> list[Pin]:
    """The packages of a run: those pins of its lock that were installed, or without a lock all that was installed."""
    packages: dict[str, str] = dict(environment.get("packages") or {})
    locked = [pin for pin in pins(lock) if packages.get(pin.name) == pin.version]
    return locked or [Pin(normal(name), version, ()) for name, version in sorted(packages.items())]


def recorded(environment: Mapping[str, Any]) -> str:
    """The versions that a run recorded, as requirements: those that an index has."""
    away = set(environment.get("unpublished") or ())
    packages: dict[str, str] = dict(environment.get("packages") or {})
    return "".join(f"{name}=={version}\n" for name, version in sorted(packages.items()) if name not in away)
