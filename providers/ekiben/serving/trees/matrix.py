"""Rows as XGBoost's library reads them, and the light stand-in for `xgboost.DMatrix`."""

from __future__ import annotations

import ctypes
import json
import math
import sys
from typing import Any

import numpy as np

from . import handover, library
from .library import Handle, arguments

__all__ = ["NAN", "DMatrix", "array_of", "comes_from_callers", "frame", "interface", "named"]

NAN = math.nan
FRAME_TYPES = {"bool": "i", "float16": "float", "float32": "float", "float64": "float"}
FRAME_TYPES |= {f"{sign}int{bits}": "int" for sign in ("", "u") for bits in (8, 16, 32, 64)}
WHOLE = 2.0**53  # Up to here a float64 holds every whole number.
FORBIDDEN = frozenset("[]<")


def array_of(data: Any) -> Any:
    """`data` as an array of numbers that the library reads, or None when that is for the real package to do."""
    if type(data) is list or type(data) is tuple:
        data = np.array(data)
    elif type(data) is not np.ndarray:
        return None
    kind, size = data.dtype.kind, data.dtype.itemsize
    if kind == "b" or (kind == "f" and size == 2):
        return data.astype(np.float32)
    if kind not in "iuf" or size > 8:
        return None
    return data if data.flags.aligned else np.require(data, requirements="A")


def frame(data: Any) -> tuple[Any, list[str], list[str]] | None:
    """A pandas frame of plain numbers as (array, names, types of the columns); None for any other."""
    pandas = sys.modules.get("pandas")
    if pandas is None or type(data) is not pandas.DataFrame or isinstance(data.columns, pandas.MultiIndex):
        return None
    types = [FRAME_TYPES.get(each.name, "") if isinstance(each, np.dtype) else "" for each in data.dtypes]
    if not all(types) or not types:
        return None
    return _values(data), [str(name) for name in data.columns], types


def _values(data: Any) -> Any:
    kinds = {each.name for each in data.dtypes}
    if kinds & {"bool", "float16"} or len(kinds) > 1:
        values = data.to_numpy(dtype=np.float64)
        if kinds & {"int64", "uint64"} and (np.abs(values) > WHOLE).any():
            # Rounded once, as the library does, and not twice.
            values = np.empty(data.shape, np.float32)
            with np.errstate(over="ignore"):
                for i in range(data.shape[1]):
                    values[:, i] = data.iloc[:, i].to_numpy()
        return values
    return data.to_numpy()


def named(data: Any) -> str:
    """The kind of data, for those who read the log."""
    return f"{type(data).__module__}.{type(data).__name__}"


def comes_from_callers(data: Any) -> bool:
    """May what is odd about it be a caller's doing, and not the service's?"""
    return isinstance(data, list | tuple | np.ndarray)


def interface(data: Any) -> bytes:
    """The array for the library: where it lies, and how."""
    about = data.__array_interface__
    if about["strides"] is not None or data.ndim != 2:
        return json.dumps(about).encode()
    rows, columns = about["shape"]
    return b'{"data":[%d,true],"shape":[%d,%d],"strides":null,"typestr":"%s","version":3}' % (
        about["data"][0], rows, columns, about["typestr"].encode(),
    )  # fmt: skip


class DMatrix(metaclass=handover.Standing):
    """`xgboost.DMatrix` of an array, of lists or of a plain frame. The library's own matrix is made when something needs it.

    Whatever else one can be made from or asked for makes this object one of the real package.
    """

    def __init__(
        self,
        data: Any,
        *more: Any,
        missing: float | None = None,
        silent: bool = False,
        feature_names: Any = None,
        nthread: int | None = None,
        **others: Any,
    ) -> None:
        self.missing = NAN if missing is None else missing
        self.nthread = -1 if nthread is None else nthread
        self.silent = silent
        self._types: list[str] | None = None
        found = None
        if not more and (not others or all(value is None for value in others.values())):
            found = self._read(data, feature_names)
        if found is None:
            handover.real(f"a DMatrix of {named(data)}", lasting=not comes_from_callers(data))
            # This object is one of the real package now, which has yet to be made.
            type(self).__init__(
                self, data, *more, missing=missing, silent=silent, feature_names=feature_names, nthread=nthread, **others
            )  # fmt: skip
            return
        self._data = found
        if found.dtype.kind == "f" and np.isinf(found).any():
            _ = self.handle  # The library says whether it takes that.

    def _read(self, data: Any, names: Any) -> Any:
        """The rows, and nobody else's; None when they or the names are for the real package to judge."""
        values = array_of(data)
        if values is not None:
            values = values.copy() if values is data else values
        elif (plain := frame(data)) is not None:
            values, own, self._types = plain
            names = own if names is None else names
        if values is None or values.ndim != 2:
            return None
        if names is not None and (type(names) is not list or not _good(tuple(names), values.shape[1])):
            return None
        self._names = names
        if values.dtype == np.float64:
            with np.errstate(over="ignore"):
                values = values.astype(np.float32)
        return values

    def become(self, cls: type) -> None:
        """Be one of the real package."""
        made = "_data" in self.__dict__
        if made:
            _ = self.handle
        names, types = self.__dict__.pop("_names", None), self.__dict__.pop("_types", None)
        self.__dict__.pop("_data", None)
        self.__class__ = cls
        if made:
            self.feature_names = names
            self.feature_types = types

    def num_row(self) -> int:
        return int(self._data.shape[0])

    def num_col(self) -> int:
        return int(self._data.shape[1])

    @property
    def feature_names(self) -> list[str] | None:
        return None if self._names is None else list(self._names)

    @feature_names.setter
    def feature_names(self, names: Any) -> None:
        if names is None or (type(names) is list and _good(tuple(names), self.num_col())):
            self._names = names
        else:
            handover.real("odd names of features")
            self.feature_names = names

    def __getattr__(self, name: str) -> Any:
        if name == "handle":
            return self._make()
        if name.startswith("_"):
            raise AttributeError(f"'DMatrix' object has no attribute {name!r}")
        handover.real(f"DMatrix.{name}", lasting=True)
        return getattr(self, name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise ValueError("ctypes objects containing pointers cannot be pickled")

    def __del__(self) -> None:
        if (made := self.__dict__.pop("handle", None)) is not None:
            library.load().XGDMatrixFree(made)

    def _make(self) -> Any:
        loaded, made = library.load(), Handle()
        missing = NAN if math.isnan(self.missing) else float(self.missing)
        how = arguments(missing=missing, nthread=int(self.nthread), data_split_mode=0)
        loaded.check(loaded.XGDMatrixCreateFromDense(interface(self._data), how, ctypes.byref(made)))
        # Of two threads that get here at once, one matrix stays.
        kept = self.__dict__.setdefault("handle", made)
        if kept is not made:
            loaded.XGDMatrixFree(made)
        return kept


_good_names: dict[tuple[str, ...], int] = {}


def _good(names: tuple[Any, ...], columns: int) -> bool:
    """Does the real package take these names without a word? The last ones asked for are known."""
    if _good_names.get(names) == columns:
        return True
    if len(names) != columns or len(set(names)) != columns:
        return False
    if not all(type(name) is str and not FORBIDDEN & set(name) for name in names):
        return False
    if len(_good_names) > 64:
        _good_names.clear()
    _good_names[names] = columns
    return True
