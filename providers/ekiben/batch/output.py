"""The output of a run as it grows: rows to the staged file, and the same rows in parts to the journal."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from ekiben.batch.frames import answer_schema
from ekiben.batch.journal import Journal, Part
from ekiben.batch.predict import Predicted
from ekiben.batch.route import Route
from ekiben.batch.sinks import sink
from ekiben.errors import ModelFailed, SpecError

__all__ = ["ROW", "Output"]

# The column that says which row of the input it was, where no key was named.
ROW = "row"
PART_BYTES = 16 << 20
PART_ERRORS = 50_000


class Output:
    """`end`: the number of the last row of the input that is in it; `seen`: the digest of the input up to there, if it has one."""

    def __init__(
        self, journal: Journal, form: tuple[str, str], route: Route, keys: Mapping[str, Any], *, strict: bool,
        save_every_s: float,
    ) -> None:  # fmt: skip
        self._journal, self._form, self._route, self._keys = journal, form, route, keys
        self._strict, self._save_every_s = strict, save_every_s
        self.staged, self.errors = journal.staging / "staged", journal.staging / "errors"
        self._stack = ExitStack()
        self._write: Callable[[Any], None] | None = None
        self._schema: Any = None
        self.end = self.predicted = self.failed = 0
        self.seen = ""
        self._fresh()

    def __enter__(self) -> Self:
        self._errors_file = self._stack.enter_context(self.errors.open("w", encoding="utf-8"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stack.__exit__(kind, error, trace)
        except Exception as second:
            # A file that is given up needs no end; what its closing says would hide the reason.
            if error is None:
                raise
            error.add_note(f"Then: {second}")

    def replay(self, part: Part) -> None:
        """Write a part of an earlier run."""
        self._put(part.table, part.errors)
        self.end, self.seen = part.end, part.seen
        self._fresh()

    def add(self, result: Predicted, seen: str) -> None:
        """Write a batch with its predictions. Raises SpecError for a bad row, when the run is strict; ModelFailed."""
        errors = self._failed(result)
        if errors and self._strict:
            first = errors[0]
            raise SpecError(
                f"Row {first['row']} of the input{_named(first['key'])}: {first['reason']}. Mend it; without --strict it would "
                "go to the errors file, and the rest go on."
            )
        table = _compact(self._table(result))
        self._put(table, errors)
        if table is not None:
            self._tables.append(table)
            self._bytes += table.nbytes
        self._part_errors.extend(errors)
        self.end, self.seen = result.piece.end, seen
        if (
            time.monotonic() - self._begun >= self._save_every_s
            or self._bytes >= PART_BYTES
            or len(self._part_errors) >= PART_ERRORS
        ):
            self.save()

    def save(self) -> None:
        """Keep what is not kept yet."""
        import pyarrow as pa

        if self.end > self._start:
            table = pa.concat_tables(self._tables) if self._tables else None
            self._journal.save(Part(self._start, self.end, table, self._part_errors, self.seen))
        self._fresh()

    def finish(self) -> None:
        """The input has ended. The files are whole when the context has been left."""
        import pyarrow as pa

        self.save()
        if self._write is None:
            self._open(pa.schema([*self._keys.items(), *answer_schema(self._route)]))

    def _fresh(self) -> None:
        self._start, self._begun, self._bytes = self.end, time.monotonic(), 0
        self._tables: list[Any] = []
        self._part_errors: list[dict[str, Any]] = []

    def _put(self, table: Any, errors: list[dict[str, Any]]) -> None:
        for error in errors:
            self._errors_file.write(json.dumps(error, ensure_ascii=False, default=str) + "\n")
        self.failed += len(errors)
        if table is not None:
            self.predicted += table.num_rows
            if self._write is None:
                self._open(table.schema)
            assert self._write is not None
            self._write(table)

    def _open(self, schema: Any) -> None:
        self._schema = schema
        self._write = self._stack.enter_context(sink(self.staged, *self._form, schema))

    def _table(self, result: Predicted) -> Any:
        """The keys and the predictions beside them; None when no row of the batch has any."""
        import pyarrow as pa

        if result.answers is None:
            return None
        whole = len(result.good) == result.piece.table.num_rows
        columns = {}
        for name, type in self._keys.items():
            column = (
                result.piece.table.column(name) if name in result.piece.table.column_names else result.piece.numbers
            )
            column = column.cast(type)
            columns[name] = column if whole else column.take(pa.array(result.good))
        if taken := sorted(columns.keys() & set(result.answers.column_names)):
            raise SpecError(
                f"The model's answer has a column {taken[0]!r}, and so have the keys. Rename the column in the input, or leave "
                "the key out."
            )
        made = pa.table({**columns, **dict(zip(result.answers.column_names, result.answers.columns, strict=True))})
        if self._schema is None or made.schema == self._schema:
            return made
        try:
            if made.column_names != self._schema.names:
                raise ValueError(f"it had the columns {self._schema.names[len(columns) :]}")
            return made.cast(self._schema)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
            raise ModelFailed(
                f"The route {self._route.name!r} answers otherwise than in the first batch "
                f"({result.answers.schema.to_string().replace(chr(10), ', ')}): {error}. Let it answer the same columns and "
                "types each time."
            ) from error

    def _failed(self, result: Predicted) -> list[dict[str, Any]]:
        """The rows that have no prediction, in order: number, key and reason."""
        found: list[dict[str, Any]] = [
            {"row": number, "key": None, "reason": reason} for number, reason in result.piece.bad
        ]
        there = [name for name in self._keys if name in result.piece.table.column_names]
        for index, reason in result.bad.items():
            key = {name: result.piece.table.column(name)[index].as_py() for name in there}
            found.append({"row": result.piece.numbers[index].as_py(), "key": key or None, "reason": reason})
        return sorted(found, key=lambda entry: int(entry["row"] or 0))


def _compact(table: Any) -> Any:
    """The table in memory of its own: a slice keeps all of what it was cut from."""
    import pyarrow as pa

    if table is None:
        return None
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return pa.ipc.open_stream(out.getvalue()).read_all()


def _named(key: dict[str, Any] | None) -> str:
    return f" ({', '.join(f'{name}={value}' for name, value in key.items())})" if key else ""
