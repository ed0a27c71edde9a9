"""What keeps a Pulumi program quick: work that is done once, values that are not taken apart, short stacks in the state."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import pulumi

__all__ = ["Sealed", "calls_first", "facts", "once", "traced_shortly"]

P = ParamSpec("P")
R = TypeVar("R")

# Of the Python stack that the state keeps of each resource: those of Pulumi's constructors, and some of whose call it was.
TRACED_FRAMES = 9

# What `once` has made, and in which program: another engine connection is another one (tests run several in one process).
_made: dict[Any, Any] = {}
_made_in: Any = None


def once(make: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What `make` makes of this, made once while a program runs, during which sources do not change. Raises what `make` raises."""
    global _made_in
    monitor, key = pulumi.runtime.settings.get_monitor(), (make, args, tuple(sorted(kwargs.items())))
    if _made_in is not monitor:
        _made.clear()
        _made_in = monitor
    if key not in _made:
        _made[key] = make(*args, **kwargs)
    found: R = _made[key]
    return found


def calls_first() -> None:
    """Have Pulumi wait for the program's calls to the engine before it waits for outputs.

    It waits for calls one after the other, but looks at all outputs that are pending whenever one of them is there. A program that
    ends before the first call has begun only has outputs, and computes with the square of them.
    """
    pulumi.runtime.settings.SETTINGS.rpc_manager.rpcs.append(asyncio.ensure_future(asyncio.sleep(0)))


@dataclass(frozen=True)
class Sealed:
    """A value that `pulumi.Output.all` passes on as it is. Of a list or a dict it makes an output of each leaf."""

    value: Any


def facts(**values: Any) -> pulumi.Output[Mapping[str, Any]]:
    """Facts of a part, from outputs and plain values."""
    plain = {key: value for key, value in values.items() if _plain(value)}
    later = {key: value for key, value in values.items() if key not in plain}
    return pulumi.Output.all(*later.values()).apply(lambda told: {**plain, **dict(zip(later, told, strict=True))})


def _plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_plain(one) for one in value.values())
    if isinstance(value, list):
        return all(_plain(one) for one in value)
    return value is None or isinstance(value, str | int | float)


@contextmanager
def traced_shortly() -> Iterator[None]:
    """Pulumi puts the whole Python stack of each resource into the state, down to the interpreter's start. That is up to two
    fifths of a resource in it, and the engine writes all of it anew twice for each resource that it makes.
    """
    before = getattr(sys, "tracebacklimit", None)
    sys.tracebacklimit = TRACED_FRAMES
    try:
        yield
    finally:
        if before is None:
            del sys.tracebacklimit
        else:
            sys.tracebacklimit = before
