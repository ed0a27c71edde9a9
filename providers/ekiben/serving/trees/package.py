"""The module that `import xgboost` gives: the stand-ins, and the real package as soon as anything else of it is asked for."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from . import handover
from .handover import StandIn
from .library import Found

__all__ = ["put_in_place"]


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `xgboost` and what is in it before Python's own finders do, until the real package is loaded."""

    def __init__(self, found: Found) -> None:
        self.found = found
        self._theirs: dict[str, Any] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != "xgboost" or handover.at_work():
            return None
        if fullname == "xgboost":
            return importlib.machinery.ModuleSpec(
                fullname, self, origin=str(self.found.folder / "__init__.py"), is_package=True
            )
        # A part of the package by its name: that is the real one's, and is imported as its part.
        handover.real(fullname, lasting=True)
        self._theirs[fullname] = importlib.import_module(fullname).__spec__
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return sys.modules[spec.name] if spec.name in self._theirs else StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ in self._theirs:
            module.__spec__ = self._theirs.pop(module.__name__)
            return
        from .booster import Booster
        from .matrix import DMatrix

        named = {"Booster": Booster, "DMatrix": DMatrix, "__version__": self.found.version}
        module.__dict__.update(named, __file__=str(self.found.folder / "__init__.py"))


def put_in_place(found: Found) -> None:
    """From now on `import xgboost` gives the stand-in; a real package that was imported already is kept for when it is needed."""
    handover.put_aside()
    sys.meta_path.insert(0, _Finder(found))
