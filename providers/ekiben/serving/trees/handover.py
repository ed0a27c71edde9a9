"""From the stand-ins to the real package: whatever they lack, it does, with the objects that are there already.

A stand-in and the object of the real package hold the same thing, a handle of the same library. So an object is handed over by
changing its class, wherever it is referred to from.
"""

from __future__ import annotations

import importlib
import logging
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any
from weakref import WeakSet

from .library import XGBoostError

__all__ = ["StandIn", "Standing", "at_work", "loaded", "on_load", "put_aside", "real"]

log = logging.getLogger("ekiben.serving")
_lock = threading.RLock()
_module: ModuleType | None = None
_loading = False
_waiting: list[Callable[[str], object]] = []
_aside: dict[str, ModuleType] = {}


class StandIn(ModuleType):
    """`xgboost`, as long as a Booster that predicts is all that it takes."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module 'xgboost' has no attribute {name!r}")
        return getattr(real(f"xgboost.{name}", lasting=True), name)

    def __dir__(self) -> list[str]:
        return dir(real("all the names in xgboost"))


class Standing(type):
    """The class of the stand-ins. Once the real package is loaded, it makes real objects and knows them as its own."""

    live: WeakSet[Any]

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> Any:
        if any(isinstance(base, Standing) for base in bases):
            mine = [
                base.in_the_real(f"a class of its own, {name}") if isinstance(base, Standing) else base
                for base in bases
            ]
            return type(mine[0])(name, tuple(mine), namespace)
        made = super().__new__(mcls, name, bases, namespace)
        made.live = WeakSet()
        _standing.append(made)
        return made

    def __call__(cls, *given: Any, **named: Any) -> Any:
        if _module is not None:
            return getattr(_module, cls.__name__)(*given, **named)
        made = cls.__new__(cls)  # type: ignore[call-arg, arg-type]
        cls.live.add(made)
        made.__init__(*given, **named)
        return made

    def __instancecheck__(cls, instance: Any) -> bool:
        return super().__instancecheck__(instance) or (
            _module is not None and isinstance(instance, getattr(_module, cls.__name__))
        )

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):  # who looks a class over must not load the real package
            raise AttributeError(f"type object {cls.__name__!r} has no attribute {name!r}")
        return getattr(cls.in_the_real(f"{cls.__name__}.{name}"), name)

    def in_the_real(cls, why: str) -> Any:
        """The class that this one stands for."""
        return getattr(real(why, lasting=True), cls.__name__)


_standing: list[Standing] = []


def loaded() -> ModuleType | None:
    """The real package, when something has needed it."""
    return _module


def put_aside() -> None:
    """Where a parent process has imported the real package before, take it out of sight until it is needed."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "xgboost"]:
        _aside[name] = sys.modules.pop(name)


def at_work() -> bool:
    """Is the real package loaded, or just being loaded?"""
    return _loading or _module is not None


def on_load(tell: Callable[[str], object]) -> None:
    """Have `tell` called when the real package is loaded for something that the service will need again: with what that is."""
    _waiting.append(tell)


def real(why: str, *, lasting: bool = False) -> ModuleType:
    """The real package, imported on the first call: from then on it is what is used. Raises what its import raises.

    `lasting`: it is the service's own way that needs it, and not what somebody sent.
    """
    global _loading, _module
    with _lock:
        if _module is not None:
            return _module
        stand_in = sys.modules.get("xgboost")
        if isinstance(stand_in, StandIn):
            del sys.modules["xgboost"]
        sys.modules.update(_aside)
        _loading = True
        try:
            module = importlib.import_module("xgboost")
        except BaseException:
            if isinstance(stand_in, StandIn):
                sys.modules["xgboost"] = stand_in
            raise
        finally:
            _loading = False
        log.info("xgboost itself is imported and used from here on, for %s", why)
        # Who catches the one must catch the other.
        module.core.XGBoostError = XGBoostError
        for cls in _standing:
            for each in list(cls.live):
                each.become(getattr(module, cls.__name__))
            cls.live.clear()
            if isinstance(stand_in, StandIn):
                stand_in.__dict__.pop(cls.__name__, None)
        _module = module
        for tell in _waiting if lasting else ():
            tell(why)
        return module
