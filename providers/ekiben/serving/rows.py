"""Values that have rows, joined and split: lists, NumPy arrays, pandas frames. The joined are joined as BentoML does it."""

from __future__ import annotations

import collections.abc
import itertools
import sys
import types
import typing
from collections.abc import Hashable, Sequence
from typing import Any

from .standin.annotations import DataframeSchema, TensorSchema, origin_of

__all__ = ["RowsError", "count", "join", "kind", "may_have_rows", "split"]

LISTS = (list, collections.abc.Sequence, collections.abc.MutableSequence)
SCALARS = (str, bytes, bytearray, collections.abc.Mapping)


class RowsError(TypeError):
    """A value has no rows along the dimension that was asked for."""


def may_have_rows(annotation: Any, metadata: Sequence[Any], dim: int) -> bool:
    """Whether a value of that type has rows along `dim`, as far as its annotation tells."""
    if annotation is Any or any(isinstance(each, TensorSchema) for each in metadata):
        return True
    if any(isinstance(each, DataframeSchema) for each in metadata):
        return dim == 0
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return may_have_rows(annotation.__origin__, annotation.__metadata__, dim)
    if origin in (typing.Union, types.UnionType):
        return any(may_have_rows(each, (), dim) for each in typing.get_args(annotation))
    return dim == 0 and origin_of(annotation) in LISTS


def count(value: Any, dim: int) -> int | None:
    """How many rows a value has along `dim`; None for what is no list, array or frame. Raises RowsError."""
    if isinstance(value, list):
        found, dims = len(value), 1
    elif (array := _array(value)) is not None:
        if not -value.ndim <= dim < value.ndim:
            raise RowsError(f"an array of {value.ndim} dimensions has no rows along dimension {dim}")
        return int(array.shape[dim])
    elif _frame(value) is not None:
        found, dims = len(value), 1
    else:
        return None
    if not 0 <= dim < dims:
        raise RowsError(f"a {type(value).__name__} has no rows along dimension {dim}")
    return found


def kind(value: Any, dim: int) -> Hashable:
    """Equal for values that can be joined without one being changed by another. Without rows: equal for equal values."""
    if isinstance(value, list):
        return "list", frozenset(map(type, value)), _of_row(value[0]) if value else None
    if _array(value) is not None:
        shape = list(value.shape)
        if shape:
            shape[dim] = -1
        # Texts of different lengths have different types, which say nothing.
        return "array", value.dtype.char if value.dtype.kind in "SU" else value.dtype, tuple(shape)
    if _frame(value) is not None:
        return "frame", tuple(value.columns), tuple(value.dtypes)
    try:
        hash(value)
    except TypeError:
        return "alone", id(value)
    return type(value), value


def join(values: Sequence[Any], dim: int) -> Any:
    """One value with the rows of all, in order; they are of one kind, and one at least."""
    first = values[0]
    if _frame(first) is not None:
        # Each request's own index means nothing among others, nor, so that it does not depend on them, alone.
        if len(values) == 1:
            return first.reset_index(drop=True)
        return sys.modules["pandas"].concat(values, ignore_index=True)
    if len(values) == 1:
        return first
    if _array(first) is not None:
        return sys.modules["numpy"].concatenate(values, axis=dim)
    if not isinstance(first, list | tuple):
        raise RowsError(f"a {type(first).__name__} cannot be joined to another")
    return list(itertools.chain.from_iterable(values))


def split(value: Any, counts: Sequence[int], dim: int) -> list[Any]:
    """As many rows for each as `counts` says, in order. Raises RowsError where the value has more or fewer, or none."""
    found = _rows_of_answer(value, dim)
    if found != sum(counts):
        raise RowsError(f"{found} rows came back for {sum(counts)}")
    if len(counts) == 1 and _frame(value) is None:
        return [value]
    ends = list(itertools.accumulate(counts))
    edges = zip([0, *ends], ends, strict=False)
    if _array(value) is not None:
        before = (slice(None),) * (dim % value.ndim)
        return [value[(*before, slice(start, end))] for start, end in edges]
    if _frame(value) is not None:
        return [value.iloc[start:end].reset_index(drop=True) for start, end in edges]
    return [value[start:end] for start, end in edges]


def _rows_of_answer(value: Any, dim: int) -> int:
    """Of whatever a method gave: what is not of the known kinds may still have a length and slices, such as a tensor."""
    found = count(value, dim)
    if found is not None:
        return found
    if isinstance(value, SCALARS) or not hasattr(value, "__getitem__") or not hasattr(value, "__len__"):
        raise RowsError(f"a {type(value).__name__} has no rows")
    if dim != 0:
        raise RowsError(f"a {type(value).__name__} has no rows along dimension {dim}")
    return len(value)


def _of_row(row: Any) -> Hashable:
    """What an array or a frame that is made of such rows would depend on."""
    if isinstance(row, dict):
        return tuple(row)
    if isinstance(row, list | tuple):
        return len(row), frozenset(map(type, row))
    return (row.dtype, row.shape) if _array(row) is not None else None


def _array(value: Any) -> Any:
    numpy = sys.modules.get("numpy")
    return value if numpy is not None and isinstance(value, numpy.ndarray) else None


def _frame(value: Any) -> Any:
    pandas = sys.modules.get("pandas")
    return value if pandas is not None and isinstance(value, pandas.DataFrame | pandas.Series) else None
