"""A light stand-in for the module `bentoml`: what plain services use, made of pydantic alone.

`install` puts it where `import bentoml` finds it. Whatever else a service asks of it raises NeedsBentoML, which is no Exception:
the worker then starts afresh with BentoML itself. Once a service is served, what it asks for late comes from BentoML itself.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.util
import logging
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from .refusal import NeedsBentoML

__all__ = ["OWNED", "PARTS", "NeedsBentoML", "install", "service_class", "serving"]

log = logging.getLogger("ekiben.serving")
OWNED = ("bentoml", "_bentoml_sdk", "_bentoml_impl")
PARTS = {
    "bentoml": {
        "service": "services", "Service": "services", "api": "services", "on_startup": "services",
        "on_shutdown": "services", "on_deployment": "services", "get_current_service": "services",
        "Context": "context:ServiceContext", "Cookie": "context", "server_context": "context",
        "IODescriptor": "descriptors", "Field": "pydantic:Field",
    },
    "bentoml.images": {"Image": "services", "PythonImage": "services:Image"},
    "bentoml.validators": dict.fromkeys(
        ("ContentType", "DataframeSchema", "DType", "FileSchema", "PILImageEncoder", "Shape", "TensorSchema"), "annotations"
    ),
    "bentoml.exceptions": {},
}  # fmt: skip


class _Module(ModuleType):
    """A module whose names are looked up when they are asked for."""

    def __getattr__(self, name: str) -> Any:
        value = _find(self.__name__, name)
        setattr(self, name, value)
        return value


class _Finder(importlib.abc.MetaPathFinder):
    """Refuses the parts of BentoML that there is no stand-in for."""

    serving = False

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        if fullname.partition(".")[0] in OWNED:
            if self.serving:
                _become_bentoml(fullname)
                return importlib.util.find_spec(fullname)
            raise NeedsBentoML(f"import {fullname}")
        return None


_finder = _Finder()


def install() -> None:
    """From now on `import bentoml` gives the stand-in. Repeating is safe."""
    if _finder in sys.meta_path:
        return
    for name in [name for name in sys.modules if name.partition(".")[0] in OWNED]:
        del sys.modules[name]
    for name in PARTS:
        module = _Module(name)
        module.__path__ = []
        module.__spec__ = importlib.util.spec_from_loader(name, loader=None, is_package=True)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    sys.modules["bentoml"].__dict__["importing"] = importing
    sys.meta_path.insert(0, _finder)


def service_class() -> type:
    """What `@bentoml.service` makes."""
    found: type = importlib.import_module(f"{__name__}.services").Service
    return found


def serving() -> None:
    """The service is served: what it asks for now, and the stand-in lacks, comes from BentoML itself."""
    _finder.serving = True


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """`with bentoml.importing():`; what runs the service has all that it needs, so nothing is suppressed."""
    yield


def _find(module: str, name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("bentoml")
    where = PARTS[module].get(name)
    if module == "bentoml.exceptions" and not name.startswith("_"):
        where = "exceptions"
    if where is not None:
        place, _, attribute = where.partition(":")
        found = importlib.import_module(place if place == "pydantic" else f"{__name__}.{place}")
        if hasattr(found, attribute or name):
            return getattr(found, attribute or name)
    if name.startswith("__"):
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    if not _finder.serving:
        raise NeedsBentoML(f"{module}.{name}")
    _become_bentoml(f"{module}.{name}")
    return getattr(importlib.import_module(module), name)


def _become_bentoml(wanted: str) -> None:
    """Give way to BentoML itself, for what is asked for from now on; the service keeps what it was made with."""
    log.warning("the service asks for %s now: BentoML itself is loaded", wanted)
    sys.meta_path.remove(_finder)
    for name in PARTS:
        if isinstance(sys.modules.get(name), _Module):
            del sys.modules[name]
