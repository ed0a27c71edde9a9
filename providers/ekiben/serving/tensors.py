"""The tensors of the Open Inference Protocol, version 2: in JSON, or as bytes behind the JSON (the binary extension)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import chain
from typing import Any

import numpy
from pydantic_core import from_json, to_json

from . import arrays
from .columns import texts
from .render import array_json
from .standin.exceptions import BadInput, BentoMLException

__all__ = ["BYTES", "DATATYPES", "NAMES", "Request", "Tensor", "Tensors", "answered", "joined", "read", "split"]

# FP16 has no form in JSON of its own: its numbers are those of FP32.
DATATYPES = {
    "BOOL": "bool", "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64", "UINT8": "uint8",
    "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "FP16": "float16", "FP32": "float32", "FP64": "float64",
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DATATYPES.items()}
OF_DTYPES = {dtype: NAMES[name] for dtype, name in arrays.NAMES.items()}
BYTES = "BYTES"
LENGTH_BYTES = 4
MAX_TENSORS, MAX_DIMENSIONS = 16_384, 32


@dataclass(frozen=True)
class Tensor:
    """`data`: an array; of BYTES one of objects, each of them bytes."""

    datatype: str
    data: Any


@dataclass
class Request:
    """What was asked. `wanted`: the outputs by name, and whether as bytes; None means all of them, as `binary` says."""

    tensors: dict[str, Tensor]
    id: str | None = None
    wanted: dict[str, bool] | None = None
    binary: bool = False


@dataclass
class Tensors:
    """The tensors of a request, as the arguments of a method."""

    given: dict[str, Tensor]
    stacks: bool = field(default=False, init=False)

    @property
    def names(self) -> list[str]:
        return list(self.given)

    def array(self, name: str) -> Any:
        tensor = self.given[name]
        if tensor.datatype != BYTES:
            return tensor.data
        return texts(_texts(tensor.data.ravel().tolist(), name), name).reshape(tensor.data.shape)

    def value(self, name: str) -> Any:
        tensor = self.given[name]
        if tensor.datatype != BYTES:
            return tensor.data.tolist()
        found = numpy.empty(tensor.data.size, object)
        found[:] = _texts(tensor.data.ravel().tolist(), name)
        return found.reshape(tensor.data.shape).tolist()

    def bytes(self, name: str) -> bytes:
        tensor = self.given[name]
        if tensor.datatype != BYTES or tensor.data.size != 1:
            raise BadInput(f"{name} must be one element of the datatype BYTES.")
        return bytes(tensor.data.ravel()[0])

    def stacked(self, names: Sequence[str]) -> Any:
        raise NotImplementedError

    def frame(self, names: Sequence[str]) -> Any:
        import pandas

        return pandas.DataFrame({name: self._column(name) for name in self._even(names)})

    def rows(self, names: Sequence[str]) -> list[dict[str, Any]]:
        columns = [self._column(name) for name in self._even(names)]
        lists = [each.tolist() if isinstance(each, numpy.ndarray) else each for each in columns]
        return [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]

    def _column(self, name: str) -> Any:
        tensor = self.given[name]
        flat = tensor.data.ravel()
        return _texts(flat.tolist(), name) if tensor.datatype == BYTES else flat

    def _even(self, names: Sequence[str]) -> Sequence[str]:
        """The names of columns, each of the shape [n] or [n, 1], and all of one length."""
        shapes = {name: self.given[name].data.shape for name in names}
        for name, shape in shapes.items():
            if not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
                raise BadInput(f"{name} is a column, and must have the shape [n] or [n, 1].")
        if len({shape[0] for shape in shapes.values()}) > 1:
            raise BadInput("The columns have several lengths.")
        return names


def read(body: Any, header_length: int | None) -> Request:
    """Raises BadInput. `header_length`: of the JSON, where tensors follow it as bytes."""
    end = len(body) if header_length is None else header_length
    if end > len(body):
        raise BadInput(f"Inference-Header-Content-Length is {end}, and the body has {len(body)} bytes.")
    try:
        given = from_json(bytes(memoryview(body)[:end]))
    except ValueError as error:
        raise BadInput(f"The request is no JSON: {error}") from error
    inputs = given.get("inputs") if isinstance(given, dict) else None
    if not isinstance(inputs, list) or not inputs or len(inputs) > MAX_TENSORS:
        raise BadInput("The request has no list of `inputs`, or one that is too long.")
    rest, found = memoryview(body)[end:], {}
    for each in inputs:
        name, tensor, rest = _input(each, rest)
        if name in found:
            raise BadInput(f"The input {name!r} is there twice.")
        found[name] = tensor
    if len(rest):
        raise BadInput(f"The body has {len(rest)} bytes that are no input's.")
    of_request = _parameters(given)
    binary = of_request.get("binary_data_output", False) is True
    identity, wanted = given.get("id"), given.get("outputs")
    if identity is not None and not isinstance(identity, str):
        raise BadInput("The `id` of the request is no text.")
    return Request(found, identity, _wanted(wanted, binary) if wanted else None, binary)


def answered(head: dict[str, Any], outputs: Iterable[tuple[str, Any, bool]]) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON where bytes follow. An output: name, what `columns` has, as bytes.

    Raises BentoMLException (406) for what is no tensor.
    """
    told, tail = [], []
    for name, value, binary in outputs:
        tensor = _tensor(name, value)
        of = {"name": name, "datatype": tensor.datatype, "shape": tensor.data.shape}
        if binary:
            data = (
                joined(tensor.data.ravel().tolist())
                if tensor.datatype == BYTES
                else arrays.little(tensor.data).tobytes()
            )
            tail.append(data)
            told.append(to_json({**of, "parameters": {"binary_data_size": len(data)}}))
        else:
            told.append(to_json(of)[:-1] + b',"data":' + _json(name, tensor) + b"}")
    header = to_json(head)[:-1] + b',"outputs":[' + b",".join(told) + b"]}"
    return header + b"".join(tail), len(header) if tail else None


def split(data: Any, name: str) -> list[bytes]:
    """The elements of BYTES: each behind its length, of four bytes. Raises BadInput."""
    found, at, whole = [], 0, bytes(data)
    while at < len(whole):
        size = int.from_bytes(whole[at : at + LENGTH_BYTES], "little")
        at += LENGTH_BYTES
        if at + size > len(whole):
            raise BadInput(f"The bytes of {name} end within an element.")
        found.append(whole[at : at + size])
        at += size
    return found


def joined(elements: Iterable[bytes]) -> bytes:
    """The contrary of `split`."""
    return b"".join([len(each).to_bytes(LENGTH_BYTES, "little") + each for each in elements])


def _input(given: Any, rest: memoryview) -> tuple[str, Tensor, memoryview]:
    if not isinstance(given, dict) or not isinstance(name := given.get("name"), str) or not name:
        raise BadInput("An input has no `name`.")
    datatype, shape, more = given.get("datatype"), given.get("shape"), _parameters(given)
    if not isinstance(datatype, str) or (datatype != BYTES and datatype not in DATATYPES):
        raise BadInput(
            f"The datatype of {name} is {str(datatype)[:40]!r}, and must be {', '.join((*DATATYPES, BYTES))}."
        )
    if (
        not isinstance(shape, list)
        or not all(type(each) is int and each >= 0 for each in shape)
        or len(shape) > MAX_DIMENSIONS
    ):
        raise BadInput(f"The shape of {name} is no list of sizes.")
    if "shared_memory_region" in more:
        raise BadInput("Shared memory is not offered.")
    if (size := more.get("binary_data_size")) is None:
        return name, _of_json(given.get("data"), datatype, tuple(shape), name), rest
    if type(size) is not int or not 0 <= size <= len(rest) or "data" in given:
        raise BadInput(f"The binary_data_size of {name} is {str(size)[:40]}, and {len(rest)} bytes are left.")
    if datatype == BYTES:
        return name, Tensor(BYTES, _shaped(split(rest[:size], name), tuple(shape), name)), rest[size:]
    dtype = arrays.DTYPES[DATATYPES[datatype]]
    return name, Tensor(datatype, arrays.of_bytes(rest[:size], dtype, tuple(shape), name)), rest[size:]


def _of_json(data: Any, datatype: str, shape: tuple[int, ...], name: str) -> Tensor:
    """From lists, flat or nested as the shape says."""
    if not isinstance(data, list):
        raise BadInput(f"{name} has no list of `data`.")
    nested = [len(data)]
    while data and type(data[0]) is list and all([type(each) is list for each in data]):
        lengths = set(map(len, data))
        if len(lengths) > 1 or len(nested) >= MAX_DIMENSIONS:
            raise BadInput(f"The data of {name} are lists of several lengths.")
        nested += lengths
        data = list(chain.from_iterable(data))
    if len(nested) > 1 and tuple(nested) != shape:
        raise BadInput(f"The data of {name} have the shape {nested}, and it says {list(shape)}.")
    kinds = set(map(type, data))
    if datatype == BYTES:
        if kinds - {str}:
            raise BadInput(f"The data of {name} must be text, to be BYTES.")
        return Tensor(BYTES, _shaped([each.encode() for each in data], shape, name))
    dtype = arrays.DTYPES[DATATYPES[datatype]]
    if kinds - ({bool} if dtype.kind == "b" else {int} if dtype.kind in "iu" else {int, float, type(None)}):
        raise BadInput(f"The data of {name} hold what is no {datatype}.")
    try:
        # null is how a missing number is written; NumPy reads it as NaN.
        array = numpy.array(data, numpy.float64 if dtype.kind == "f" else dtype)
        return Tensor(datatype, _reshaped(arrays.cast(array, dtype, name), shape, name))
    except OverflowError as error:
        raise BadInput(f"The data of {name} hold what is too large for {datatype}.") from error


def _shaped(elements: list[bytes], shape: tuple[int, ...], name: str) -> Any:
    found = numpy.empty(len(elements), object)
    found[:] = elements
    return _reshaped(found, shape, name)


def _reshaped(array: Any, shape: tuple[int, ...], name: str) -> Any:
    if array.size != math.prod(shape):
        raise BadInput(f"{name} has {array.size} elements, which have not the shape {list(shape)}.")
    try:
        return array.reshape(shape)
    except (ValueError, OverflowError) as error:
        raise BadInput(f"{name} cannot have the shape {list(shape)}.") from error


def _wanted(given: Any, binary: bool) -> dict[str, bool]:
    if not isinstance(given, list) or len(given) > MAX_TENSORS:
        raise BadInput("The `outputs` are no list.")
    found: dict[str, bool] = {}
    for each in given:
        if not isinstance(each, dict) or not isinstance(name := each.get("name"), str):
            raise BadInput("An output has no `name`.")
        more = _parameters(each)
        if "shared_memory_region" in more or "classification" in more:
            raise BadInput("Shared memory and classification are not offered.")
        found[name] = more.get("binary_data", binary) is True
    return found


def _parameters(given: dict[str, Any]) -> dict[str, Any]:
    found = given.get("parameters")
    if found is not None and not isinstance(found, dict):
        raise BadInput("`parameters` must be an object.")
    return found or {}


def _texts(elements: list[bytes], name: str) -> list[str]:
    try:
        return [each.decode() for each in elements]
    except UnicodeDecodeError as error:
        raise BadInput(f"{name} is not UTF-8.") from error


def _tensor(name: str, value: Any) -> Tensor:
    """Of what a method gave. What is neither numbers nor text is text in JSON."""
    if isinstance(value, list):
        kinds = set(map(type, value))
        if kinds and (kinds == {bool} or kinds == {int} or not kinds - {int, float, type(None)}):
            kind = numpy.float64 if kinds & {float, type(None)} else None
            found = numpy.array(value, kind)
            if found.dtype in OF_DTYPES:
                return Tensor(OF_DTYPES[found.dtype], found)
        return Tensor(BYTES, _shaped([_bytes(each) for each in value], (len(value),), name))
    if value.dtype in OF_DTYPES:
        return Tensor(OF_DTYPES[value.dtype], value)
    if value.dtype.kind in "mM":
        value = value.astype(str)
    if value.dtype.kind not in "OUS":
        why = f"The output {name} is {value.dtype}, which is no datatype of the protocol."
        raise BentoMLException(why, error_code=HTTPStatus.NOT_ACCEPTABLE)
    return Tensor(BYTES, _shaped([_bytes(each) for each in value.ravel().tolist()], value.shape, name))


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else to_json(value, inf_nan_mode="null")


def _json(name: str, tensor: Tensor) -> bytes:
    if tensor.datatype != BYTES:
        return array_json(tensor.data.ravel())
    try:
        return to_json(_texts(tensor.data.ravel().tolist(), name))
    except BadInput as error:
        why = f"The output {name} is not UTF-8. Ask for it with the parameter binary_data."
        raise BentoMLException(why, error_code=HTTPStatus.NOT_ACCEPTABLE) from error
