"""Writing tables to a file, in blocks of the same size whatever they came in, so that the same rows are the same bytes."""

from __future__ import annotations

import gzip
import json
import lzma
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

__all__ = ["sink"]

BLOCK_ROWS = 65_536


@contextmanager
def sink(path: Path, kind: str, packed: str, schema: Any) -> Iterator[Callable[[Any], None]]:
    """A file of tables of `schema` (kind: parquet, orc, csv or jsonl; packed: gz, xz, zst or nothing). Yields `write(table)`.

    The file is whole, and on the disk, when the context ends without an error.
    """
    import pyarrow as pa

    held: list[Any] = []
    with ExitStack() as stack:
        file = stack.enter_context(path.open("wb"))
        with ExitStack() as inner:
            write_block = inner.enter_context(_FORMATS[kind](_packed(inner, file, packed), schema))

            def write(table: Any) -> None:
                held.append(table)
                while (rows := sum(part.num_rows for part in held)) >= BLOCK_ROWS:
                    whole = pa.concat_tables(held).combine_chunks()
                    write_block(whole.slice(0, BLOCK_ROWS))
                    held[:] = [whole.slice(BLOCK_ROWS)] if rows > BLOCK_ROWS else []

            yield write
            if held:
                write_block(pa.concat_tables(held).combine_chunks())
        file.flush()
        os.fsync(file.fileno())


def _packed(stack: ExitStack, file: Any, packed: str) -> Any:
    import pyarrow as pa

    if packed == "gz":
        return stack.enter_context(gzip.GzipFile("", "wb", fileobj=file, mtime=0))
    if packed == "xz":
        return stack.enter_context(lzma.open(file, "wb"))
    if packed == "zst":
        return stack.enter_context(pa.CompressedOutputStream(pa.PythonFile(_Kept(file), mode="w"), "zstd"))
    return file


class _Kept:
    """A file that stays open when Arrow closes what it writes to."""

    closed = False

    def __init__(self, file: Any) -> None:
        self.write, self.flush, self.tell = file.write, file.flush, file.tell

    def close(self) -> None:
        pass


@contextmanager
def _parquet(file: Any, schema: Any) -> Iterator[Callable[[Any], None]]:
    import pyarrow.parquet as parquet

    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        yield writer.write_table


@contextmanager
def _orc(file: Any, schema: Any) -> Iterator[Callable[[Any], None]]:
    import pyarrow.orc as orc

    with orc.ORCWriter(file, compression="zstd") as writer:
        written = False

        def write(table: Any) -> None:
            nonlocal written
            written = True
            writer.write(table)

        yield write
        if not written:
            writer.write(schema.empty_table())


@contextmanager
def _csv(file: Any, schema: Any) -> Iterator[Callable[[Any], None]]:
    import pyarrow as pa
    import pyarrow.csv as csv

    nested = [pa.types.is_nested(type) for type in schema.types]
    flat = pa.schema([(f.name, pa.string() if deep else f.type) for f, deep in zip(schema, nested, strict=True)])
    with csv.CSVWriter(file, flat) as writer:

        def write(table: Any) -> None:
            columns = [
                pa.array([None if v is None else _line(v) for v in column.to_pylist()], pa.string()) if deep else column
                for column, deep in zip(table.columns, nested, strict=True)
            ]
            writer.write_table(pa.table(columns, schema=flat))

        yield write


@contextmanager
def _jsonl(file: Any, schema: Any) -> Iterator[Callable[[Any], None]]:
    def write(table: Any) -> None:
        file.write("".join(_line(row) + "\n" for row in table.to_pylist()).encode())

    yield write


def _line(value: Any) -> str:
    return json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"), default=_text, allow_nan=False)


def _finite(value: Any) -> Any:
    """The value without NaN and infinities, which JSON does not have."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list) else value


def _text(value: Any) -> str:
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


_FORMATS: dict[str, Any] = {"parquet": _parquet, "orc": _orc, "csv": _csv, "jsonl": _jsonl}
