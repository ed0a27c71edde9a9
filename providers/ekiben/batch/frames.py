"""Between Arrow and a worker's messages: batches to buffers, answers to columns. No Python object per row for arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ekiben.batch.route import Route
from ekiben.errors import ModelFailed

__all__ = ["answer_schema", "decoded", "encoded"]


def encoded(route: Route, columns: Mapping[str, Any], rows: int) -> tuple[dict[str, Any], list[Any]]:
    """The message that asks for predictions of `rows` rows, whose columns are Arrow arrays as `conformed` made them."""
    if route.kind == "matrix":
        return _matrix(route, columns, rows)
    if route.kind == "frame":
        described, buffers = [], []
        for name, array in columns.items():
            about, buffer = _frame_column(array)
            described.append({"name": name, **about})
            buffers.append(buffer)
        return {"kind": "frame", "columns": described, "rows": rows}, buffers
    values = {name: array.to_pylist() for name, array in columns.items()}
    if route.flat:
        (made,) = values.values()
    else:
        # A value that is missing where null is not allowed is left out, so that the model's own default stands.
        omitted = {column.name for column in route.columns if not column.nullable and not column.required}
        made = [
            {name: value for name, value in zip(values, row, strict=True) if value is not None or name not in omitted}
            for row in zip(*values.values(), strict=True)
        ]
    return {"kind": "rows"}, [json.dumps(made, default=_text).encode()]


def decoded(route: Route, header: Mapping[str, Any], buffers: Sequence[Any]) -> Any:
    """The predictions of an answer, as an Arrow table with a row for each that was given to the model.

    Raises ModelFailed when the answers are not what the route's own schema says.
    """
    import numpy as np
    import pyarrow as pa

    if header["kind"] == "rows":
        answers = json.loads(bytes(buffers[0]))["root"]
        fields, whole = _fields(route.answer)
        schema = answer_schema(route)
        columns = []
        for name, type in zip(fields, schema.types, strict=True):
            values = answers if whole else [answer.get(name) for answer in answers]
            if fields[name] is None:
                values = [None if value is None else _json(value) for value in values]
            try:
                columns.append(pa.array(values, type))
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
                raise ModelFailed(
                    f"The route {route.name!r} answered what its schema does not say: {name}: {error}"
                ) from error
        return pa.table(columns, schema=schema)
    columns, names = [], []
    for about, buffer in zip(header["columns"], buffers, strict=True):
        if "dtype" in about:
            array = pa.array(np.frombuffer(buffer, dtype=about["dtype"]))
        else:
            values = json.loads(bytes(buffer))
            nested = any(isinstance(value, list | dict) for value in values)
            array = pa.array([None if v is None else _json(v) for v in values] if nested else values)
        columns.append(array.cast(pa.string()) if pa.types.is_null(array.type) else array)
        names.append(about["name"])
    return pa.table(columns, names=names)


def answer_schema(route: Route) -> Any:
    """The Arrow schema of the predictions, as far as the route says it without being called: else one column of numbers."""
    import pyarrow as pa

    if route.kind != "rows":
        return pa.schema([("prediction", pa.float64())])
    return pa.schema([(name, type or pa.string()) for name, type in _fields(route.answer)[0].items()])


def _fields(answer: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The columns of a list of answers, with their Arrow types (None: as JSON); and whether an answer is one value."""
    item = (answer.get("items") or {}) if answer.get("type") == "array" else {}
    properties = item.get("properties") if item.get("type") == "object" else None
    if properties:
        return {name: _type(about) for name, about in properties.items()}, False
    return {"prediction": _type(item)}, True


def _type(schema: Mapping[str, Any]) -> Any:
    """The Arrow type of what a JSON schema describes; None where it is of no one type."""
    import pyarrow as pa

    from ekiben.batch.conform import arrow_type

    options = [option for option in schema.get("anyOf") or [schema] if option.get("type") != "null"]
    if len(options) != 1:
        return None
    found = options[0]
    if found.get("type") == "array":
        inner = _type(found.get("items") or {})
        return None if inner is None else pa.list_(inner)
    if found.get("type") == "object":
        parts = {name: _type(about) for name, about in (found.get("properties") or {}).items()}
        return pa.struct(list(parts.items())) if parts and None not in parts.values() else None
    return arrow_type(found.get("type") or "")


def _matrix(route: Route, columns: Mapping[str, Any], rows: int) -> tuple[dict[str, Any], list[Any]]:
    import numpy as np

    made = np.empty((rows, len(route.columns)), dtype=route.dtype)
    for at, column in enumerate(route.columns):
        made[:, at] = columns[column.name].to_numpy(zero_copy_only=False)
    shape = [rows] if route.flat else list(made.shape)
    return {"kind": "matrix", "dtype": made.dtype.str, "shape": shape, "rows": rows}, [made.data]


def _frame_column(array: Any) -> tuple[dict[str, str], Any]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    t = pa.types
    if t.is_decimal(array.type):
        array = pc.cast(array, pa.float64())
    if t.is_date(array.type) or t.is_timestamp(array.type):
        array = pc.cast(array, pa.timestamp("us"), safe=False)
    elif not (
        t.is_integer(array.type) or t.is_floating(array.type) or (t.is_boolean(array.type) and not array.null_count)
    ):
        return {}, json.dumps(array.to_pylist(), default=_text).encode()
    # As pandas has it: whole numbers with gaps are floats, and the gap is NaN; a gap in times is NaT.
    values = array.to_numpy(zero_copy_only=False)
    return {"dtype": values.dtype.str}, np.ascontiguousarray(values).view(np.uint8).data


def _text(value: Any) -> str:
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
