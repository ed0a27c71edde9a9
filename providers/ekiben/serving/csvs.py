"""CSV as the content of a request (RFC 4180, UTF-8): the rows of the one array, or of the one table, that a method takes.

An array has no header unless the media type says `header=present`; a table has one unless it says `header=absent`. In an array an
empty cell is NaN. In a table an empty one is null, one that JSON would call a number, true or false is that, and any other is text.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy

from . import inputs
from .standin.exceptions import BadInput

if TYPE_CHECKING:
    from .endpoint import Arguments, Endpoint

__all__ = ["arguments"]

WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
WORDS = {"": None, "true": True, "True": True, "false": False, "False": False}


def arguments(endpoint: Endpoint, body: bytes | bytearray, given: Mapping[str, str]) -> Arguments:
    """Those of a call; `given` are the parameters of the media type. Raises BadInput and ValidationError."""
    table = next((each for each in endpoint.inputs if each.kind in (inputs.FRAME, inputs.ROWS)), None)
    header = given.get("header", "present" if table else "absent").lower()
    if header not in ("present", "absent"):
        raise BadInput(f"The parameter header of text/csv is present or absent, and not {header[:80]!r}.")
    rows = _rows(body, given.get("charset", "utf-8"))
    if header == "present":
        if not rows:
            raise BadInput("The CSV has no header.")
        return inputs.arguments(endpoint, Table(rows[0], rows[1:]))
    if table is not None:
        return inputs.arguments(endpoint, Table(_declared(table), rows))
    only = inputs.only_array(endpoint)
    array = _numbers(rows, only.name)
    shape = only.schema.shape
    # One row, or one column, of a method that takes a vector.
    return inputs.arguments_of_array(
        endpoint, array.ravel() if shape and len(shape) == 1 and 1 in array.shape else array
    )


class Table:
    """A source of columns by their names."""

    stacks = True

    def __init__(self, names: Sequence[str], rows: list[list[str]]) -> None:
        if len(set(names)) != len(names):
            raise BadInput("The header of the CSV names a column twice.")
        for number, row in enumerate(rows, 1):
            if len(row) != len(names):
                raise BadInput(f"Row {number} of the CSV has {len(row)} cells, and there are {len(names)} columns.")
        self.names = list(names)
        self._rows = rows
        self._places = {name: place for place, name in enumerate(names)}

    def array(self, name: str) -> Any:
        return _numbers([[row[self._places[name]]] for row in self._rows], name).ravel()

    def value(self, name: str) -> Any:
        return self._column(name)

    def bytes(self, name: str) -> bytes:
        raise BadInput(f"{name} is a file, which CSV cannot hold.")

    def stacked(self, names: Sequence[str]) -> Any:
        places = [self._places[name] for name in names]
        return _numbers([[row[place] for place in places] for row in self._rows], ", ".join(names)[:80])

    def frame(self, names: Sequence[str]) -> Any:
        import pandas

        return pandas.DataFrame({name: self._column(name) for name in names})

    def rows(self, names: Sequence[str]) -> list[dict[str, Any]]:
        columns = [self._column(name) for name in names]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

    def _column(self, name: str) -> list[Any]:
        place = self._places[name]
        return [_value(row[place]) for row in self._rows]


def _rows(body: bytes | bytearray, charset: str) -> list[list[str]]:
    if charset.lower() not in ("utf-8", "utf8", "us-ascii"):
        raise BadInput(f"CSV is read as UTF-8, and this is {charset[:80]!r}.")
    try:
        text = bytes(body).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"The CSV is no UTF-8: {error.reason} at byte {error.start}.") from None
    try:
        return [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error as error:
        raise BadInput(f"The CSV cannot be read: {error}.") from None


def _numbers(rows: list[list[str]], name: str) -> Any:
    width = len(rows[0]) if rows else 0
    for number, row in enumerate(rows, 1):
        if len(row) != width:
            raise BadInput(f"Row {number} of the CSV has {len(row)} cells, and the first has {width}.")
    cells = [[_number(cell, number, name) for cell in row] for number, row in enumerate(rows, 1)]
    whole = all(isinstance(cell, int) for row in cells for cell in row)
    return numpy.array(cells, dtype="int64" if whole and cells else "float64").reshape(len(rows), width)


def _number(cell: str, row: int, name: str) -> int | float:
    cell = cell.strip()
    if WHOLE.fullmatch(cell):
        return int(cell)
    if not cell:
        return float("nan")
    try:
        if "_" not in cell:
            return float(cell)
    except ValueError:
        pass
    raise BadInput(f"{name} must hold numbers, and row {row} of the CSV has {cell[:80]!r}.")


def _value(cell: str) -> Any:
    if cell in WORDS:
        return WORDS[cell]
    if WHOLE.fullmatch(cell):
        return int(cell)
    return float(cell) if NUMBER.fullmatch(cell) else cell


def _declared(table: inputs.Input) -> list[str]:
    """The names of a table's columns, as the method has them."""
    if table.kind == inputs.FRAME:
        names = table.schema.columns
    else:
        fields = getattr(inputs.row_of(table.annotation), "model_fields", {})
        names = [info.alias or name for name, info in fields.items()]
    if not names:
        raise BadInput(f"The columns of {table.name} have no names but those of a header: send one.")
    return list(names)
