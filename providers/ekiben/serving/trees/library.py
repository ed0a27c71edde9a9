"""XGBoost's own shared library by its C API, without its Python package: the same code, and so the same bits.

`import xgboost` imports scipy, pandas and scikit-learn, and each call of its Python methods costs several times what the trees
do. The library itself is loaded in milliseconds. Loading it runs nothing in parallel: a process that has loaded it may still fork.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import json
import sys
import threading
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["Found", "Handle", "Library", "Size", "XGBoostError", "arguments", "find", "load"]

SUFFIX = "dylib" if sys.platform == "darwin" else "so"
# The calls used here take their arguments as JSON since 1.6; before 2.0 nothing has been tried.
OLDEST = 2

Handle = ctypes.c_void_p
Size = ctypes.c_uint64
_Floats, _Sizes, _Strings = ctypes.POINTER(ctypes.c_float), ctypes.POINTER(Size), ctypes.POINTER(ctypes.c_char_p)
_Text, _Int, _To = ctypes.c_char_p, ctypes.c_int, ctypes.POINTER
_PREDICTION = (_To(_Sizes), _To(Size), _To(ctypes.c_void_p))

SIGNATURES: dict[str, tuple[Any, ...]] = {
    "XGBoosterCreate": (ctypes.c_void_p, Size, _To(Handle)),
    "XGBoosterFree": (Handle,),
    "XGBoosterLoadModel": (Handle, _Text),
    "XGBoosterLoadModelFromBuffer": (Handle, ctypes.c_void_p, Size),
    "XGBoosterSaveModelToBuffer": (Handle, _Text, _To(Size), _To(ctypes.c_void_p)),
    "XGBoosterSaveJsonConfig": (Handle, _To(Size), _To(ctypes.c_char_p)),
    "XGBoosterSetParam": (Handle, _Text, _Text),
    "XGBoosterGetNumFeature": (Handle, _To(Size)),
    "XGBoosterBoostedRounds": (Handle, _To(_Int)),
    "XGBoosterGetAttr": (Handle, _Text, _To(ctypes.c_char_p), _To(_Int)),
    "XGBoosterGetAttrNames": (Handle, _To(Size), _To(_Strings)),
    "XGBoosterGetStrFeatureInfo": (Handle, _Text, _To(Size), _To(_Strings)),
    "XGBoosterPredictFromDense": (Handle, _Text, _Text, Handle, *_PREDICTION),
    "XGBoosterPredictFromDMatrix": (Handle, Handle, _Text, *_PREDICTION),
    "XGDMatrixCreateFromDense": (_Text, _Text, _To(Handle)),
    "XGProxyDMatrixCreate": (_To(Handle),),
    "XGDMatrixFree": (Handle,),
}
_Callback = ctypes.CFUNCTYPE(None, ctypes.c_char_p)


class XGBoostError(ValueError):
    """What XGBoost raises when its library refuses something; the real package raises this one too once it is loaded."""


XGBoostError.__module__ = "xgboost.core"


class Found:
    """Where XGBoost lies in this environment: the package's folder, the shared library, its version."""

    def __init__(self, folder: Path, path: Path, version: str) -> None:
        self.folder, self.path, self.version = folder, path, version


def find(search: list[str] | None = None) -> Found | None:
    """XGBoost on `sys.path` (or `search`), without importing it; None where there is none, or one too old."""
    spec = importlib.machinery.PathFinder.find_spec("xgboost", search)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations)))
    path = folder / "lib" / f"libxgboost.{SUFFIX}"
    try:
        version = (folder / "VERSION").read_text(encoding="ascii").strip()
        supported = path.is_file() and int(version.partition(".")[0]) >= OLDEST
    except (OSError, ValueError):
        return None
    return Found(folder, path, version) if supported else None


class _Proxy:
    """A matrix without data, which a prediction points at the row it is given: making one costs more than predicting does."""

    def __init__(self, library: Library) -> None:
        self._free = library.XGDMatrixFree
        self.handle = Handle()
        library.check(library.XGProxyDMatrixCreate(ctypes.byref(self.handle)))

    def __del__(self) -> None:
        if self.handle:
            self._free(self.handle)


class _Room(threading.local):
    """What each thread needs for a prediction: its own matrix, and where the library says what came out."""

    def __init__(self, library: Library) -> None:
        self._proxy = _Proxy(library)
        self.matrix = self._proxy.handle
        self.shape, self.dimensions, self.values = _Sizes(), Size(), ctypes.c_void_p()
        self.out = ctypes.byref(self.shape), ctypes.byref(self.dimensions), ctypes.byref(self.values)


class Library:
    """The functions of the C API, by their own names. They return 0, or another number when `error` says why not."""

    def __init__(self, found: Found) -> None:
        self.found = found
        self._functions = ctypes.CDLL(str(found.path))
        # The same functions without giving up the interpreter's lock: who gives it up for microseconds waits for milliseconds.
        self._held = ctypes.PyDLL(str(found.path))
        for functions in (self._functions, self._held):
            for name, arguments in SIGNATURES.items():
                getattr(functions, name).argtypes = arguments
            functions.XGBGetLastError.restype = ctypes.c_char_p
        self.predict_dense = self._functions.XGBoosterPredictFromDense
        self.predict_dense_held = self._held.XGBoosterPredictFromDense
        self._told = _Callback(_say)
        self.check(self._functions.XGBRegisterLogCallback(self._told))
        self.room = _Room(self)

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._functions, name)
        setattr(self, name, function)
        return function

    def check(self, status: int) -> None:
        """Raise XGBoostError when a call did not return 0."""
        if status:
            self.fail()

    def fail(self) -> NoReturn:
        """Raise XGBoostError for this thread's last call."""
        raise XGBoostError(self._functions.XGBGetLastError().decode("utf-8", "replace"))


@lru_cache(maxsize=1)
def load() -> Library:
    """The library, once a process. Raises OSError where there is none, or it cannot be loaded."""
    found = find()
    if found is None:
        raise OSError("there is no XGBoost whose library could be used")
    return Library(found)


@lru_cache(maxsize=256, typed=True)
def arguments(**named: Any) -> bytes:
    """The arguments of a call as the JSON that the C API reads."""
    return json.dumps(named).encode()


def _say(message: bytes) -> None:
    """What the library has to say, where its Python package would say it."""
    text = message.decode("utf-8", "replace")
    if "WARNING:" in text:
        warnings.warn(text, UserWarning, stacklevel=3)
    else:
        print(text)
