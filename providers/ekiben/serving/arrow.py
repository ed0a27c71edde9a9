"""Arrow's streams and files: what a caller sent as the columns of a call, and what a method gave as a table.

pyarrow is loaded with the first such request. A message is looked at before pyarrow reads it, so that nothing grows
beyond what was sent: compressed buffers are refused, and so are types whose values are not in the body, each in its own bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import numpy

from .columns import named
from .standin.exceptions import BadInput, BentoMLException

__all__ = ["Columns", "read", "written"]

# Before it an extension type in a schema could run code: CVE-2023-47248.
SAFE_SINCE = (14, 0, 1)
FILE_MAGIC, FILE_HEAD_BYTES = b"ARROW1", 8
SCHEMA, DICTIONARY, BATCH = 1, 2, 3
MAX_MESSAGES, MAX_COLUMNS = 4096, 16_384
# A bit may become a byte, and a byte of an integer eight of a float.
GROWTH, MIN_BYTES = 16, 64 * 1024
# What pyarrow and pandas raise at what they cannot read or make: Arrow's own errors are among the first three.
UNFIT = (
    ValueError, TypeError, KeyError, IndexError, ArithmeticError, NotImplementedError, OSError, AttributeError, struct.error,
)  # fmt: skip


def read(body: Any, *, file: bool) -> Columns:
    """Raises BadInput for what cannot be read, BentoMLException (415) where pyarrow is missing."""
    pa = _pyarrow()
    if file:
        # A file is a stream between a head and a footer, which would say where its messages are: the stream says so, too.
        if bytes(body[: len(FILE_MAGIC)]) != FILE_MAGIC:
            raise BadInput("The content is no Arrow file.")
        body = memoryview(body)[FILE_HEAD_BYTES:]
    content = pa.py_buffer(body)
    with _refusing("The content is no Arrow that can be read"):
        for number, message in enumerate(pa.ipc.MessageReader.open_stream(content)):
            if number >= MAX_MESSAGES:
                raise BadInput(f"The content has more than {MAX_MESSAGES} messages. Send larger record batches.")
            _look_at(bytes(message.metadata))
        options = pa.ipc.IpcReadOptions(use_threads=False)
        with pa.ipc.open_stream(content, options=options) as reader:
            if len(reader.schema) > MAX_COLUMNS:
                raise BadInput(f"The content has more than {MAX_COLUMNS} columns.")
            if len(set(reader.schema.names)) != len(reader.schema):
                raise BadInput("Two columns have the same name.")
            for each in reader.schema:
                _width(pa, each.type, each.name)
            table = reader.read_all()
        table.validate(full=True)
        _bound(pa, table, len(content))
        return Columns(pa, table)


class Columns:
    """A table that came in a request."""

    stacks = True

    def __init__(self, pa: Any, table: Any) -> None:
        self._pa, self._table = pa, table
        self.names: list[str] = list(table.column_names)

    def array(self, name: str) -> Any:
        """Of numbers, of text, or of lists of numbers of one length: these make the further dimensions."""
        pa, shape = self._pa, list[int]()
        with _refusing(f"The column {name!r} cannot be made an array"):
            column = self._table.column(name).combine_chunks()
            while not _is_leaf(pa, column.type):
                if column.null_count:
                    raise BadInput(f"The column {name!r} has a null where a list must be.")
                shape += _lengths(pa, column, name)
                column = (column.storage if hasattr(column, "storage") else column).flatten()
            rows = -1 if 0 not in shape else len(self._table)
            return _numbers(pa, column, name).reshape(rows, *shape)

    def value(self, name: str) -> list[Any]:
        with _refusing(f"The column {name!r} cannot be read"):
            return list(self._table.column(name).to_pylist())

    def bytes(self, name: str) -> bytes:
        found = self.value(name)
        if len(found) != 1 or not isinstance(found[0], bytes):
            raise BadInput(f"The column {name!r} must hold one value, and bytes.")
        return found[0]

    def stacked(self, names: Sequence[str]) -> Any:
        """Columns beside each other."""
        found = [self.array(name) for name in names]
        for name, each in zip(names, found, strict=True):
            if each.dtype.kind not in "biuf":
                raise BadInput(f"The column {name!r} is {each.dtype}, and must be numbers.")
        return numpy.column_stack(found)

    def frame(self, names: Sequence[str]) -> Any:
        """A DataFrame of its own; what a schema says of pandas is not believed."""
        with _refusing("The columns cannot be made a DataFrame"):
            return self._table.select(list(names)).to_pandas(use_threads=False, ignore_metadata=True).copy()

    def rows(self, names: Sequence[str]) -> list[dict[str, Any]]:
        with _refusing("The columns cannot be read"):
            return list(self._table.select(list(names)).to_pylist())


def written(value: Any, *, file: bool) -> bytes:
    """What a method gave, as a table. Raises BentoMLException (415, 406)."""
    pa = _pyarrow()
    try:
        table = _table(pa, value)
    except UNFIT as error:
        why = f"What this method gives cannot be written as Arrow: {str(error)[:200]}"
        raise BentoMLException(why, error_code=HTTPStatus.NOT_ACCEPTABLE) from error
    sink = pa.BufferOutputStream()
    with (pa.ipc.new_file if file else pa.ipc.new_stream)(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _table(pa: Any, value: Any) -> Any:
    if type(value).__name__ == "DataFrame":
        return pa.Table.from_pandas(value, preserve_index=False, nthreads=1)
    found = {}
    for name, column in named(value).items():
        if isinstance(column, numpy.ndarray) and column.ndim > 1:
            column = pa.FixedShapeTensorArray.from_numpy_ndarray(numpy.ascontiguousarray(column))
        elif isinstance(column, numpy.ndarray):
            column = pa.array(numpy.atleast_1d(column).astype(column.dtype.newbyteorder("="), copy=False))
        found[name] = column if isinstance(column, pa.Array) else pa.array(column)
    return pa.table(found)


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    try:
        yield
    except UNFIT as error:
        raise BadInput(f"{what}: {str(error)[:200]}") from error


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError as error:
        why = "Arrow needs the package pyarrow, which the bento's environment lacks: put it among its requirements."
        raise BentoMLException(why, error_code=HTTPStatus.UNSUPPORTED_MEDIA_TYPE) from error
    version = tuple(int(part) for part in pyarrow.__version__.split(".")[:3] if part.isdigit())
    if version < SAFE_SINCE:
        why = f"Arrow needs pyarrow 14.0.1 or later, and the bento's environment has {pyarrow.__version__}."
        raise BentoMLException(why, error_code=HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
    return pyarrow


def _look_at(message: bytes) -> None:
    """Refuse what is compressed or big-endian. A message is a FlatBuffer: Arrow's Message.fbs and Schema.fbs."""
    whole = struct.unpack_from("<I", message)[0]
    kind_at, header_at = _field(message, whole, 1), _field(message, whole, 2)
    if not kind_at or not header_at:
        raise BadInput("The content is no Arrow that can be read: a message has no header.")
    kind, header = message[kind_at], _table_at(message, header_at)
    if kind == SCHEMA and (at := _field(message, header, 0)) and struct.unpack_from("<h", message, at)[0] != 0:
        raise BadInput("The content is big-endian Arrow. Send it little-endian.")
    if kind == DICTIONARY:
        at = _field(message, header, 1)
        kind, header = (BATCH, _table_at(message, at)) if at else (0, 0)
    if kind == BATCH and _field(message, header, 3):
        raise BadInput("The content is compressed Arrow. Send it uncompressed, as Arrow is written by default.")


def _field(message: bytes, table: int, number: int) -> int:
    """Where a field of a table lies; 0 when it is not there."""
    vtable = table - struct.unpack_from("<i", message, table)[0]
    if vtable < 0 or 4 + 2 * number >= struct.unpack_from("<H", message, vtable)[0]:
        return 0
    offset: int = struct.unpack_from("<H", message, vtable + 4 + 2 * number)[0]
    return table + offset if offset else 0


def _table_at(message: bytes, at: int) -> int:
    return int(at + struct.unpack_from("<I", message, at)[0])


def _is_leaf(pa: Any, kind: Any) -> bool:
    return not (isinstance(kind, pa.BaseExtensionType) or pa.types.is_nested(kind))


def _lengths(pa: Any, column: Any, name: str) -> list[int]:
    """The one length of its lists; a tensor's shape."""
    if isinstance(column.type, pa.FixedShapeTensorType):
        if column.type.permutation not in (None, list(range(len(column.type.shape)))):
            raise BadInput(f"The tensors of the column {name!r} are permuted. Send them in C's order.")
        return list(column.type.shape)
    if pa.types.is_fixed_size_list(column.type):
        return [column.type.list_size]
    lengths = numpy.diff(column.offsets.to_numpy())
    if len(lengths) and (lengths != lengths[0]).any():
        raise BadInput(f"The lists of the column {name!r} have several lengths.")
    return [int(lengths[0]) if len(lengths) else 0]


def _numbers(pa: Any, column: Any, name: str) -> Any:
    if column.null_count and not pa.types.is_floating(column.type) and not pa.types.is_integer(column.type):
        raise BadInput(f"The column {name!r} has nulls, which only numbers can have: they become NaN.")
    if pa.types.is_dictionary(column.type):
        raise BadInput(f"The column {name!r} is a dictionary, which only a DataFrame can take.")
    found = column.to_numpy(zero_copy_only=False)
    if found.dtype == object:
        from .columns import texts

        return texts(found.tolist(), name)
    return found.copy()


def _width(pa: Any, kind: Any, name: str) -> int:
    """The bytes of one value in Python at most, without what it points to. Raises BadInput for a type that is not taken."""
    types = pa.types
    if isinstance(kind, pa.FixedShapeTensorType):
        return _width(pa, kind.storage_type, name)
    if types.is_fixed_size_list(kind):
        return max(8, int(kind.list_size) * _width(pa, kind.value_type, name))
    if types.is_list(kind) or types.is_large_list(kind):
        return max(8, _width(pa, kind.value_type, name))
    if types.is_struct(kind) and kind.num_fields:
        return sum([_width(pa, kind.field(number).type, name) for number in range(kind.num_fields)])
    if types.is_dictionary(kind):
        _width(pa, kind.value_type, name)
        return 8
    known = (
        types.is_boolean, types.is_integer, types.is_floating, types.is_decimal, types.is_temporal, types.is_string,
        types.is_large_string, types.is_binary, types.is_large_binary, types.is_null,
    )  # fmt: skip
    if not isinstance(kind, pa.BaseExtensionType) and any(is_so(kind) for is_so in known):
        return 8
    raise BadInput(f"The column {name!r} is {str(kind)[:80]}, which is not taken.")


def _bound(pa: Any, table: Any, size: int) -> None:
    """Many columns may point at the same bytes of the body: what they would be together must be near what was sent."""
    rows = table.num_rows * sum(_width(pa, each.type, each.name) for each in table.schema)
    if max(rows, sum(column.nbytes for column in table.columns)) > GROWTH * size + MIN_BYTES:
        raise BadInput("The columns are larger than the content that they came in.")
