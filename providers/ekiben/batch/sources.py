"""Reading files in batches: each row with its number, and what cannot be read of single rows beside it."""

from __future__ import annotations

import csv
import io
import json
import lzma
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from ekiben.batch.places import File
from ekiben.errors import EkibenError, SpecError

__all__ = ["Files", "Piece", "regrouped"]

BLOCK_BYTES = 4 << 20
LONGEST_LINE_BYTES = 64 << 20
READ_ROWS = 65_536


class Piece(NamedTuple):
    """Rows as they were read. `numbers`: of the rows, counted from 1 over all the input, those that cannot be read too; `bad`: such
    rows, with the reason; `texts`: no column has a type yet; `end`: the number of the last row that was read."""

    table: Any
    numbers: Any
    bad: list[tuple[int, str]]
    texts: bool
    end: int


class Files:
    """Files that are read one after the other as one table."""

    def __init__(self, files: Sequence[File], *, delimiter: str = "") -> None:
        self.files, self._delimiter = files, delimiter
        self._at, self._handle = 0, None
        self._schemas: list[dict[str, Any]] = []
        self._duplicates: list[set[str]] = []

    def identity(self) -> dict[str, Any]:
        """What this input is, by contents: the same for the same bytes at the same places."""
        return {"files": [{"uri": f.uri, "size_bytes": f.size_bytes, "digest": f.digest} for f in self.files]}

    def schemas(self) -> list[tuple[str, dict[str, Any]]]:
        """Each file's columns, as far as its head tells: name -> Arrow type, None for text of any kind. Raises SpecError."""
        if not self._schemas:
            for file in self.files:
                names, types = self._head(file)
                if doubled := sorted({name for name in names if names.count(name) > 1}):
                    raise SpecError(f"{file.uri}: the column {doubled[0]!r} is there twice. Rename one of them.")
                self._schemas.append(dict(zip(names, types, strict=True)))
        return [(file.uri, schema) for file, schema in zip(self.files, self._schemas, strict=True)]

    def guessed(self, names: Sequence[str], nulls: Sequence[str]) -> dict[str, str]:
        """For columns of text: number or boolean, where the head of the first file has nothing else in them."""
        import pyarrow as pa
        import pyarrow.csv as arrow_csv

        first = self.files[0]
        if first.format[0] != "csv":
            return {}
        with _reading(first), first.open() as handle:
            head = _unpacked(handle, first).read(BLOCK_BYTES // 4)
            cut = len(head) if len(head) < BLOCK_BYTES // 4 else head.rfind(b"\n") + 1
            while cut and head.count(b'"', 0, cut) % 2:
                cut = head.rfind(b"\n", 0, cut - 1) + 1
            table = arrow_csv.read_csv(
                io.BytesIO(head[:cut]), read_options=arrow_csv.ReadOptions(use_threads=False),
                parse_options=self._parsing(first, lambda row: "skip"),
                convert_options=arrow_csv.ConvertOptions(
                    include_columns=list(names), include_missing_columns=True, null_values=list(nulls)
                ),
            )  # fmt: skip
        kinds = {}
        for name, type in zip(table.column_names, table.schema.types, strict=True):
            number = pa.types.is_integer(type) or pa.types.is_floating(type)
            kinds[name] = "number" if number else "boolean" if pa.types.is_boolean(type) else ""
        return kinds

    def total_rows(self) -> int | None:
        """How many rows there are, where the files say it."""
        total = 0
        for file in self.files:
            kind = file.format[0]
            if kind not in ("parquet", "orc"):
                return None
            with _reading(file), file.open() as handle:
                total += _table_file(kind, handle)[1]
        return total

    def fraction(self) -> float:
        """How much of the bytes has been read."""
        total = sum(file.size_bytes for file in self.files) or 1
        here = 0
        if self._handle is not None and not self._handle.closed:
            here = self._handle.tell()
        return (sum(file.size_bytes for file in self.files[: self._at]) + here) / total

    def read(self, types: Mapping[str, Any], skip: int) -> Iterator[Piece]:
        """The columns in `types` (name -> Arrow type wanted, None as it is) of all rows after the first `skip`.

        Raises SpecError when a file is broken, or has changed while it was read.
        """
        offset = 0
        for at, file in enumerate(self.files):
            end = offset
            with _reading(file), file.open() as handle:
                self._at, self._handle = at, handle
                for piece in self._pieces(file, handle, types, max(0, skip - offset)):
                    end = offset + piece.end
                    yield _shifted(piece, offset, skip)
            if file.changed():
                raise SpecError(f"{file.uri} has changed while it was read. Repeat with --restart.")
            self._at, self._handle, offset = at + 1, None, end

    def _pieces(self, file: File, handle: Any, types: Mapping[str, Any], skip: int) -> Iterator[Piece]:
        kind = file.format[0]
        if kind == "csv":
            return self._csv(file, handle, list(types))
        if kind == "jsonl":
            known = self.schemas()[self.files.index(file)][1]
            return _jsonl(_unpacked(handle, file), {n: known.get(n) if t is None else t for n, t in types.items()})
        return _columnar(kind, handle, list(types), skip)

    def _csv(self, file: File, handle: Any, names: list[str]) -> Iterator[Piece]:
        import numpy as np
        import pyarrow as pa
        import pyarrow.csv as arrow_csv

        bad: list[tuple[int, str]] = []
        refused: deque[tuple[int, str]] = deque()

        def refuse(row: Any) -> str:
            refused.append((row.number - 1, f"it has {row.actual_columns} values, not {row.expected_columns}"))
            return "skip"

        end = 0
        # Rows have numbers only when one thread reads them; it costs little.
        with arrow_csv.open_csv(
            _unpacked(handle, file), read_options=arrow_csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
            parse_options=self._parsing(file, refuse),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=names, include_missing_columns=True, column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=False,
            ),
        ) as reader:  # fmt: skip
            for batch in reader:
                count = batch.num_rows
                # Arrow reads ahead in a thread of its own: what it has refused may be of later rows.
                bad += [refused.popleft() for _ in range(len(refused))]
                numbers = np.arange(end + 1, end + 1 + count + len(bad))
                if bad:
                    numbers = np.setdiff1d(numbers, [number for number, _ in bad])
                numbers = numbers[:count]
                end = int(numbers[-1]) if count else end
                passed = [entry for entry in bad if entry[0] < end]
                bad = [entry for entry in bad if entry[0] > end]
                yield Piece(pa.table(batch.columns, names=batch.schema.names), pa.array(numbers), passed, True, end)
        if bad := [*bad, *refused]:
            nothing = pa.table({name: pa.array([], pa.string()) for name in names})
            yield Piece(nothing, pa.array([], pa.int64()), bad, True, bad[-1][0])

    def _parsing(self, file: File, refuse: Any) -> Any:
        import pyarrow.csv as arrow_csv

        return arrow_csv.ParseOptions(
            delimiter=self._delimiter_of(file), newlines_in_values=True, invalid_row_handler=refuse
        )

    def _delimiter_of(self, file: File) -> str:
        return self._delimiter or ("\t" if ".tsv" in file.uri.lower()[-8:] else ",")

    def _head(self, file: File) -> tuple[list[str], list[Any]]:
        kind = file.format[0]
        with _reading(file), file.open() as handle:
            if kind in ("parquet", "orc"):
                schema = _table_file(kind, handle)[2]
                return schema.names, schema.types
            stream = _unpacked(handle, file)
            if kind == "csv":
                head = io.StringIO(stream.read(BLOCK_BYTES // 4).decode("utf-8-sig", "replace"), newline="")
                names = next(filter(None, csv.reader(head, delimiter=self._delimiter_of(file))), [])
                if not names:
                    raise SpecError(f"{file.uri} is empty: not even the names of columns are there.")
                return names, [None] * len(names)
            for block in _blocks(stream):
                schema = _inferred(block)
                return schema.names, schema.types
            return [], []


def regrouped(pieces: Iterator[Piece], rows: int) -> Generator[Piece, None, None]:
    """The same rows in pieces of `rows` (the last has the rest), whatever the blocks that they were read in."""
    import pyarrow as pa

    held: list[Piece] = []
    count = 0

    def joined(parts: list[Piece]) -> Piece:
        bad = [entry for part in parts for entry in part.bad]
        table = pa.concat_tables([part.table for part in parts]) if len(parts) > 1 else parts[0].table
        numbers = pa.concat_arrays([part.numbers for part in parts]) if len(parts) > 1 else parts[0].numbers
        return Piece(table, numbers, bad, parts[0].texts, parts[-1].end)

    for piece in pieces:
        held.append(piece)
        count += piece.table.num_rows
        while count > rows:
            whole = joined(held)
            end = whole.numbers[rows - 1].as_py()
            passed = [entry for entry in whole.bad if entry[0] < end]
            yield Piece(whole.table.slice(0, rows), whole.numbers.slice(0, rows), passed, whole.texts, end)
            left = [entry for entry in whole.bad if entry[0] > end]
            held = [Piece(whole.table.slice(rows), whole.numbers.slice(rows), left, whole.texts, whole.end)]
            count -= rows
    if held:
        yield joined(held)


def _shifted(piece: Piece, offset: int, skip: int) -> Piece:
    """The piece with its numbers counted over all files, without the rows up to `skip`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers = pc.add(piece.numbers, pa.scalar(offset, pa.int64()))
    bad = [(number + offset, reason) for number, reason in piece.bad if number + offset > skip]
    table = piece.table
    if len(numbers) and numbers[0].as_py() <= skip:
        gone = len(numbers) if numbers[-1].as_py() <= skip else pc.index(pc.greater(numbers, skip), True).as_py()
        table, numbers = table.slice(gone), numbers.slice(gone)
    return Piece(table, numbers, bad, piece.texts, piece.end + offset)


def _columnar(kind: str, handle: Any, names: list[str], skip: int) -> Iterator[Piece]:
    import numpy as np
    import pyarrow as pa

    file, _, schema = _table_file(kind, handle)
    there = [name for name in names if name in schema.names]
    end = 0
    if kind == "parquet":
        groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        first = 0
        while first < len(groups) and end + groups[first] <= skip:
            end, first = end + groups[first], first + 1
        batches = file.iter_batches(READ_ROWS, row_groups=range(first, len(groups)), columns=there)
    else:
        batches = (file.read_stripe(i, columns=there) for i in range(file.nstripes))
    for batch in batches:
        table = pa.table(batch.columns, names=batch.schema.names)
        if len(there) < len(names):
            for name in set(names) - set(there):
                table = table.append_column(name, pa.nulls(table.num_rows))
        numbers = pa.array(np.arange(end + 1, end + 1 + table.num_rows))
        end += table.num_rows
        yield Piece(table.select(names), numbers, [], False, end)


def _table_file(kind: str, handle: Any) -> tuple[Any, int, Any]:
    if kind == "parquet":
        import pyarrow.parquet as parquet

        # Without this it holds all that it will need of a file in memory.
        file = parquet.ParquetFile(handle, pre_buffer=False)
        return file, file.metadata.num_rows, file.schema_arrow
    import pyarrow.orc as orc

    found = orc.ORCFile(handle)
    return found, found.nrows, found.schema


def _jsonl(stream: Any, types: Mapping[str, Any]) -> Iterator[Piece]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.json as json_

    schema = pa.schema([(name, type if type is not None else pa.null()) for name, type in types.items()])
    end = 0
    for block in _blocks(stream):
        bad: list[tuple[int, str]] = []
        try:
            table = json_.read_json(
                io.BytesIO(block), read_options=json_.ReadOptions(block_size=len(block) + 1, use_threads=False),
                parse_options=json_.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
            ).select(schema.names)  # fmt: skip
            numbers = np.arange(end + 1, end + 1 + table.num_rows)
            end += table.num_rows
        except (pa.ArrowInvalid, KeyError):
            table, good, bad, end = _line_by_line(block, schema, end)
            numbers = np.array(good, np.int64)
        yield Piece(table.combine_chunks(), pa.array(numbers), bad, False, end)


def _line_by_line(block: bytes, schema: Any, end: int) -> tuple[Any, list[int], list[tuple[int, str]], int]:
    """A block that has a line of another kind: (table, numbers, bad rows, the last number)."""
    import pyarrow as pa

    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    bad: list[tuple[int, str]] = []
    for line in block.splitlines():
        if not line.strip():
            continue
        end += 1
        reason = ""
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"it is {type(row).__name__}, not an object")
            row = {name: row.get(name) for name in schema.names}
            for name, kind in zip(schema.names, schema.types, strict=True):
                reason = f"{name}: "
                if isinstance(row[name], bool) != pa.types.is_boolean(kind) and row[name] is not None:
                    raise ValueError(f"{row[name]!r} is not {kind}")
                pa.scalar(row[name], kind)
            rows.append(row)
            numbers.append(end)
        except (ValueError, OverflowError, RecursionError, pa.ArrowTypeError) as error:
            bad.append((end, f"{reason}{str(error)[:200]}"))
    return pa.Table.from_pylist(rows, schema), numbers, bad, end


def _inferred(block: bytes) -> Any:
    """The schema of a block of JSON lines; times stay the texts that they are."""
    import pyarrow as pa
    import pyarrow.json as json_

    try:
        found = json_.read_json(io.BytesIO(block), read_options=json_.ReadOptions(block_size=len(block) + 1)).schema
    except pa.ArrowInvalid:
        rows = []
        for line in block.splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            rows.extend([row] if isinstance(row, dict) else [])
        fields: dict[str, Any] = {}
        for row in rows:
            for name, value in row.items():
                if fields.get(name) in (None, pa.null()):
                    fields[name] = pa.scalar(value).type
        found = pa.schema(list(fields.items()))
    return pa.schema([(f.name, pa.string() if pa.types.is_timestamp(f.type) else f.type) for f in found])


def _blocks(stream: Any) -> Iterator[bytes]:
    """Whole lines, some megabytes at a time."""
    rest = b""
    while chunk := stream.read(BLOCK_BYTES):
        cut = chunk.rfind(b"\n") + 1
        if not cut:
            rest += chunk
            if len(rest) > LONGEST_LINE_BYTES:
                raise SpecError(f"A line has more than {LONGEST_LINE_BYTES >> 20} MiB: is it one JSON object a line?")
            continue
        block, rest = rest + chunk[:cut], chunk[cut:]
        if block.strip():
            yield block
    if rest.strip():
        yield rest


def _unpacked(handle: Any, file: File) -> Any:
    import pyarrow as pa

    packed = file.format[1]
    if packed == "xz":
        return lzma.open(handle)
    return pa.CompressedInputStream(handle, {"gz": "gzip", "zst": "zstd"}[packed]) if packed else handle


@contextmanager
def _reading(file: File) -> Iterator[None]:
    """What a broken file raises, as one of our errors."""
    import pyarrow as pa

    try:
        yield
    except EkibenError:
        raise
    except (pa.ArrowException, lzma.LZMAError, csv.Error, EOFError, OSError) as error:
        why = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise SpecError(f"{file.uri} cannot be read as {file.format[0]}: {why}.") from error
