"""Arrays as bytes, and exactly what a method declares: a value that does not fit is refused, not bent."""

from __future__ import annotations

import ast
import io
import math
from typing import Any

import numpy
from numpy.lib import format as npy_format

from .standin.annotations import TensorSchema
from .standin.exceptions import BadInput

__all__ = [
    "DTYPES",
    "NAMES",
    "cast",
    "fit",
    "is_plain",
    "little",
    "npy",
    "of_bytes",
    "of_npy",
    "of_tensor",
    "plain",
    "tensor",
]

# What has one meaning as bytes, on every machine.
PLAIN = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
)  # fmt: skip
DTYPES = {name: numpy.dtype(name) for name in PLAIN}
# Of each in both orders of bytes: `dtype.name` is made anew whenever it is asked for, and slowly.
NAMES = {each: name for name, dtype in DTYPES.items() for each in (dtype.newbyteorder("<"), dtype.newbyteorder(">"))}
RANKS = {"b": 0, "i": 1, "u": 1, "f": 2}
NPY_MAGIC, MAX_NPY_HEADER_BYTES = b"\x93NUMPY", 4096
NPY_DTYPES = {each.newbyteorder("<").str: each for each in DTYPES.values()}


def fit(array: Any, schema: TensorSchema, name: str) -> Any:
    """`array` in the type and the shape that are declared. Raises BadInput where it is not so without loss of meaning.

    Whole numbers may become others that hold them, and floats; floats may be rounded to shorter ones, as JSON's are.
    """
    if schema.dtype is not None:
        array = cast(array, numpy.dtype(getattr(numpy, schema.dtype)), name)
    shape = schema.shape
    if shape is None:
        return array
    if array.ndim != len(shape) or any(want not in (-1, has) for want, has in zip(shape, array.shape, strict=True)):
        raise BadInput(f"{name} must have the shape {_told(shape)}, and has {_told(array.shape)}.")
    return array


def cast(array: Any, dtype: Any, name: str) -> Any:
    """`array` as `dtype`; the array itself where it is so. Raises BadInput."""
    if array.dtype == dtype or array.dtype.kind == dtype.kind == "U":
        return array
    has, wants = RANKS.get(array.dtype.kind), RANKS.get(dtype.kind)
    if has is None or wants is None or has > wants:
        raise BadInput(f"{name} must be {dtype}, and is {array.dtype}.")
    if wants == 1 and has == 1 and array.size:
        bounds = numpy.iinfo(dtype)
        low, high = int(array.min()), int(array.max())
        if low < bounds.min or high > bounds.max:
            raise BadInput(f"{name} must be {dtype}, and {low if low < bounds.min else high} is too large for it.")
    # Of whole numbers only FP16 can be too short.
    if wants == 2 and dtype.itemsize < (4 if has < 2 else array.dtype.itemsize):
        return _narrowed(array, dtype, name)
    return array.astype(dtype)


def _narrowed(array: Any, dtype: Any, name: str) -> Any:
    with numpy.errstate(over="ignore"):
        made = array.astype(dtype)
    infinite = numpy.isinf(made)
    if infinite.any() and numpy.isfinite(array[infinite]).any():
        raise BadInput(f"{name} must be {dtype}, and holds what is too large for it.")
    return made


def plain(name: str) -> Any:
    """The type of that name. Raises BadInput."""
    if name not in DTYPES:
        raise BadInput(f"The dtype {name[:40]!r} is none of {', '.join(PLAIN)}. The bytes are little-endian.")
    return DTYPES[name]


def of_bytes(data: Any, dtype: Any, shape: tuple[int, ...], name: str) -> Any:
    """An array of its own that is made of little-endian bytes. One dimension may be -1. Raises BadInput."""
    size, free = len(data), shape.count(-1)
    known = math.prod([each for each in shape if each != -1]) * dtype.itemsize
    if free > 1 or any(each < -1 for each in shape):
        raise BadInput(f"The shape {_told(shape)} of {name} leaves more than one dimension open.")
    if (free and (not known or size % known)) or (not free and size != known):
        raise BadInput(f"{name} has {size} bytes, which is no {dtype} of the shape {_told(shape)}.")
    if dtype.kind == "b" and bytes(data).translate(None, b"\0\1"):
        raise BadInput(f"{name} must be bool, and has a byte that is neither 0 nor 1.")
    try:
        array = numpy.frombuffer(data, dtype.newbyteorder("<")) if size else numpy.empty(0, dtype)
        return array.reshape(shape).astype(dtype)
    except (ValueError, OverflowError) as error:
        raise BadInput(f"{name} cannot have the shape {_told(shape)}.") from error


def of_tensor(data: Any, dtype: str | None, shape: str | None, schema: TensorSchema) -> Any:
    """From raw bytes: what is not said of them is as the method declares it. Raises BadInput."""
    if dtype is None and schema.dtype is None:
        raise BadInput("The method declares no dtype: say it, as in `application/x-ekiben-tensor; dtype=float32`.")
    return of_bytes(data, plain(dtype or str(schema.dtype)), _shape(shape, schema), "The array")


def of_npy(data: Any) -> Any:
    """From a .npy file of any version. Raises BadInput. Its header is a literal, and an object in it is never made."""
    wide = bytes(data[6:7]) != b"\1"
    start = 12 if wide else 10
    if bytes(data[: len(NPY_MAGIC)]) != NPY_MAGIC or len(data) < start:
        raise BadInput("The content is no .npy file.")
    end = start + int.from_bytes(data[8:start], "little")
    if end - start > MAX_NPY_HEADER_BYTES:
        raise BadInput(f"The header of the .npy file has more than {MAX_NPY_HEADER_BYTES} bytes.")
    try:
        header = ast.literal_eval(bytes(data[start:end]).decode("latin-1").strip())
        descr, turned, shape = header["descr"], header["fortran_order"], header["shape"]
    except (ValueError, TypeError, KeyError, SyntaxError, RecursionError, MemoryError) as error:
        raise BadInput("The header of the .npy file cannot be read.") from error
    if not isinstance(descr, str) or descr not in NPY_DTYPES:
        raise BadInput(f"The .npy file holds {str(descr)[:80]!r}, and must hold one of {', '.join(NPY_DTYPES)}.")
    if not isinstance(shape, tuple) or not all(type(each) is int and each >= 0 for each in shape):
        raise BadInput(f"The .npy file has the shape {str(shape)[:80]}.")
    array = of_bytes(memoryview(data)[end:], NPY_DTYPES[descr], shape[::-1] if turned else shape, "The array")
    return numpy.ascontiguousarray(array.T) if turned and array.ndim > 1 else array


def is_plain(value: Any) -> bool:
    return isinstance(value, numpy.ndarray) and value.dtype in NAMES


def little(array: Any) -> Any:
    """The same, little-endian and in C's order."""
    # `ascontiguousarray` would give what has no dimension one.
    return numpy.asarray(array, array.dtype.newbyteorder("<"), order="C")


def npy(array: Any) -> tuple[bytes, bytes]:
    """Media type and body."""
    file = io.BytesIO()
    npy_format.write_array(file, little(array), version=(1, 0), allow_pickle=False)
    return b"application/x-npy", file.getvalue()


def tensor(array: Any) -> tuple[bytes, bytes]:
    """Media type and body."""
    shape = ",".join(map(str, array.shape))
    return f'application/x-ekiben-tensor; dtype={NAMES[array.dtype]}; shape="{shape}"'.encode(), little(array).tobytes()


def _shape(text: str | None, schema: TensorSchema) -> tuple[int, ...]:
    if text is None:
        return (-1,) if schema.shape is None else schema.shape
    try:
        return tuple(int(each) for each in text.split(",")) if text else ()
    except ValueError as error:
        raise BadInput(f"The shape {text[:80]!r} is no list of whole numbers, as in `shape=2,30`.") from error


def _told(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape[:16]))}{', ...' if len(shape) > 16 else ''})"
