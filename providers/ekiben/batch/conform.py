"""Columns as a route expects them: what is wrong with all of them, before the first batch, and with single rows, later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ekiben.batch.route import Column, Route

__all__ = ["NULLS", "conformed", "problems"]

# What a file of text has where it has no value (the list of pyarrow's CSV reader).
NULLS = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "N/A", "NA", "NULL", "NaN",
    "n/a", "nan", "null",
)  # fmt: skip


def problems(route: Route, keys: Sequence[str], there: Mapping[str, Any], where: str) -> list[str]:
    """What a file's columns (name -> Arrow type, None for text that can become anything) lack for this route and these keys."""
    found = [f"the key {key!r} is not there" for key in keys if key not in there]
    for column in route.columns:
        if column.name not in there:
            if column.required or route.kind != "rows":
                found.append(f"the column {column.name!r} is not there")
        elif wrong := _mismatch(column, route, there[column.name]):
            found.append(f"the column {column.name!r} is {there[column.name]}, {wrong}")
    return [f"{where}: {problem}" for problem in found]


def _mismatch(column: Column, route: Route, type: Any) -> str:
    import pyarrow.types as t

    if type is None or t.is_null(type):
        return ""
    if t.is_dictionary(type):
        type = type.value_type
    number = t.is_integer(type) or t.is_floating(type) or t.is_decimal(type)
    wanted = column.type or ("number" if route.kind == "matrix" else "")
    if wanted in ("number", "integer"):
        return "" if number or t.is_boolean(type) else f"and the model takes {_a(wanted)}"
    if wanted == "boolean":
        return "" if t.is_boolean(type) else "and the model takes a boolean"
    if t.is_binary(type) or t.is_large_binary(type) or t.is_fixed_size_binary(type):
        return "which a model cannot take"
    if wanted == "string":
        return "and the model takes a text" if number or t.is_boolean(type) or t.is_nested(type) else ""
    return "which a DataFrame cannot take" if route.kind == "frame" and t.is_nested(type) else ""


def _a(type: str) -> str:
    return {"number": "a number", "integer": "a whole number", "boolean": "a boolean"}.get(type, "a text")


def arrow_type(type: str) -> Any:
    """The Arrow type of a column's, None for whatever it is."""
    import pyarrow as pa

    return {"number": pa.float64(), "integer": pa.int64(), "boolean": pa.bool_(), "string": pa.string()}.get(type)


def conformed(route: Route, table: Any, nulls: Sequence[str], texts: bool) -> tuple[dict[str, Any], dict[int, str]]:
    """The columns of a batch as the route's types, and the rows (index -> reason) that have a value which cannot be.

    `texts`: the source has no types; `nulls` are then the texts that stand for no value. In a row that is bad, values are null.
    Where the service validates rows itself, what is missing is left to it.
    """
    columns = route.columns or tuple(Column(name, nullable=True) for name in table.column_names)
    checked = route.kind != "rows"
    made: dict[str, Any] = {}
    bad: dict[int, str] = {}
    for column in columns:
        if column.name in table.column_names:
            array = table.column(column.name).combine_chunks()
            made[column.name], wrong = _conform(array, column, nulls, texts, checked)
            for i, reason in wrong.items():
                bad[i] = f"{bad[i]}; {column.name}: {reason}" if i in bad else f"{column.name}: {reason}"
    return made, bad


def _conform(
    array: Any, column: Column, nulls: Sequence[str], texts: bool, checked: bool
) -> tuple[Any, dict[int, str]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    wanted = arrow_type(column.type)
    temporal = wanted == pa.string() and not pa.types.is_string(array.type)
    bad: dict[int, str] = {}
    if texts and (column.type != "string" or column.nullable):
        empty = pa.array([""] if column.type == "string" else list(nulls), pa.string())
        array = pc.if_else(pc.is_in(array, value_set=empty), pa.scalar(None, pa.string()), array)
    if wanted is not None and array.type != wanted and not temporal:
        try:
            array = pc.cast(array, wanted)
        except pa.ArrowInvalid:
            array, bad = _one_by_one(array, wanted, column)
    return array, {**_outside(array, column, checked), **bad}


def _one_by_one(array: Any, wanted: Any, column: Column) -> tuple[Any, dict[int, str]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    values, bad = [], {}
    for i, value in enumerate(array):
        if pa.types.is_string(array.type) and value.is_valid:
            value = pa.scalar(value.as_py().strip())
        try:
            values.append(pc.cast(value, wanted).as_py())
        except pa.ArrowInvalid:
            values.append(None)
            bad[i] = f"{str(value.as_py())[:80]!r} is not {_a(column.type)}"
    return pa.array(values, wanted), bad


def _outside(array: Any, column: Column, checked: bool) -> dict[int, str]:
    """The rows without a value where there must be one, or beyond the bounds of the signature or the dtype."""
    import pyarrow.compute as pc

    bad: dict[int, str] = {}
    if checked and not column.nullable and array.null_count:
        bad = dict.fromkeys(pc.indices_nonzero(array.is_null()).to_pylist(), "there is no value")
    for bound, compare, word in ((column.minimum, pc.less, "less"), (column.maximum, pc.greater, "more")):
        if bound is not None:
            for i in pc.indices_nonzero(pc.fill_null(compare(array, bound), False)).to_pylist():
                bad[i] = f"{array[i].as_py()} is {word} than {bound:g}"
    return bad
