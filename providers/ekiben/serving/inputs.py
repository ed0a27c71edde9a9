"""What a method takes, parameter by parameter, and its arguments from named arrays and columns instead of JSON."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel
from pydantic_core import from_json, to_json

from . import arrays
from .standin.annotations import DataframeSchema, TensorSchema, origin_of
from .standin.descriptors import IORootModel
from .standin.exceptions import BadInput

if typing.TYPE_CHECKING:
    from .endpoint import Arguments, Endpoint

__all__ = [
    "ARRAY",
    "FRAME",
    "ROWS",
    "Input",
    "Source",
    "arguments",
    "arguments_of_array",
    "of",
    "only_array",
    "row_of",
    "schema_of",
]

ARRAY, FRAME, ROWS, FILE, VALUE = "array", "frame", "rows", "file", "value"
ROOT = "root"


@dataclass(frozen=True)
class Input:
    """A parameter. `key`: its field in the model; `schema`: of arrays and frames."""

    name: str
    key: str
    kind: str
    annotation: Any
    schema: Any = None
    required: bool = True


class Source(Protocol):
    """What came in a request, by name. `stacks`: its columns are one array where the method takes one."""

    stacks: bool

    @property
    def names(self) -> Sequence[str]: ...

    def array(self, name: str) -> Any: ...

    def value(self, name: str) -> Any: ...

    def bytes(self, name: str) -> bytes: ...

    def stacked(self, names: Sequence[str]) -> Any: ...

    def frame(self, names: Sequence[str]) -> Any: ...

    def rows(self, names: Sequence[str]) -> list[dict[str, Any]]: ...


def of(spec: Any, func: Callable[..., Any], context: str | None) -> tuple[Input, ...]:
    """What `func` takes. A parameter without a name of its own in the model (`x, /`) has the name in the code."""
    if issubclass(spec, IORootModel):
        names = [name for name in list(inspect.signature(func).parameters)[1:] if name != context]
        return (_input(names[0] if names else ROOT, ROOT, spec.model_fields[ROOT], spec),)
    found = []
    for field, info in spec.model_fields.items():
        name = info.validation_alias if isinstance(info.validation_alias, str) else field
        found.append(_input(name, name, info, spec, field))
    return tuple(found)


def only_array(endpoint: Endpoint) -> Input:
    """The one array that the method takes. Raises BadInput where it is not one."""
    found: list[Input] = [each for each in endpoint.inputs if each.kind == ARRAY]
    if len(found) != 1 or any(each.required for each in endpoint.inputs if each.kind != ARRAY):
        raise BadInput("The method does not take one array, and an array was sent.")
    return found[0]


def arguments_of_array(endpoint: Endpoint, array: Any) -> Arguments:
    """Those of a call with one array. Raises BadInput and ValidationError."""
    only = only_array(endpoint)
    return _validated(endpoint, {only.key: arrays.fit(array, only.schema, only.name)})


def arguments(endpoint: Endpoint, source: Source) -> Arguments:
    """Those of a call. Raises BadInput and ValidationError.

    Each name is a parameter's; what remains are the columns of the one table, or of the one array, that the method takes.
    """
    known: dict[str, Input] = {each.name: each for each in endpoint.inputs}
    tables = [each for each in known.values() if each.kind in (FRAME, ROWS)]
    values: dict[str, Any] = {}
    if len(tables) == 1:
        table = tables[0]
        del known[table.name]
        columns = [name for name in source.names if name not in known]
        if columns:
            values[table.key] = _table(source, table, columns)
    elif rest := [name for name in source.names if name not in known]:
        only = [each for each in known.values() if each.kind == ARRAY]
        if not source.stacks or len(only) != 1 or only[0].name in source.names:
            raise BadInput(f"The method takes {_listed(known)}, and not {_listed(rest)}.")
        values[only[0].key] = arrays.fit(source.stacked(rest), only[0].schema, only[0].name)
    for name in source.names:
        if (each := known.get(name)) is not None:
            values[each.key] = _value(source, each)
    return _validated(endpoint, values)


def _table(source: Source, table: Input, columns: list[str]) -> Any:
    wanted = table.schema.columns if table.kind == FRAME else None
    if wanted is None:
        return source.frame(columns) if table.kind == FRAME else source.rows(columns)
    if missing := [name for name in wanted if name not in columns]:
        raise BadInput(f"{table.name} lacks the columns {_listed(missing)}.")
    return source.frame(list(wanted))


def _value(source: Source, each: Input) -> Any:
    if each.kind == ARRAY:
        return arrays.fit(source.array(each.name), each.schema, each.name)
    if each.kind == FILE:
        return source.bytes(each.name)
    found = source.value(each.name)
    if isinstance(found, list) and len(found) == 1 and not _is(each.annotation, list | tuple | set | frozenset):
        found = found[0]
    if isinstance(found, str) and _is(each.annotation, BaseModel | Mapping):
        try:
            return from_json(found)
        except ValueError as error:
            raise BadInput(f"{each.name} must be JSON: {error}") from error
    return found


def _validated(endpoint: Endpoint, values: dict[str, Any]) -> Arguments:
    kinds = {each.kind for each in endpoint.inputs if each.key in values}
    if kinds & {ARRAY, FRAME, FILE} or endpoint.raw:
        return endpoint.arguments(endpoint.validator.validate_python(values))
    # What JSON could have said is validated as JSON: a strict model takes a date as text from there, and from nowhere else.
    given = values.get(ROOT) if endpoint.single and values else values
    return endpoint.read(to_json(given, inf_nan_mode="constants"))


def _input(name: str, key: str, info: Any, spec: Any, field: str = "") -> Input:
    schema = schema_of(info.annotation, info.metadata)
    required = info.is_required()
    if isinstance(schema, TensorSchema):
        return Input(name, key, ARRAY, info.annotation, schema, required)
    if isinstance(schema, DataframeSchema):
        return Input(name, key, FRAME, info.annotation, schema, required)
    if field in spec.multipart_fields or (key == ROOT and ROOT in spec.multipart_fields):
        return Input(name, key, FILE, info.annotation, None, required)
    return Input(name, key, ROWS if row_of(info.annotation) else VALUE, info.annotation, None, required)


def schema_of(annotation: Any, metadata: Sequence[Any] = ()) -> Any:
    """What is said of an array or a frame, also of one that may be None."""
    for each in reversed(metadata):  # the last is the outermost, which is the one that pydantic uses
        if isinstance(each, TensorSchema | DataframeSchema):
            return each
    if origin_of(annotation) in (typing.Union, types.UnionType):
        for each in typing.get_args(annotation):
            found = schema_of(each, getattr(each, "__metadata__", ()))
            if found is not None:
                return found
    return None


def row_of(annotation: Any) -> Any:
    """Of a list of models or dictionaries what one of them is; else None."""
    if origin_of(annotation) is not list:
        return None
    args = typing.get_args(annotation)
    row = origin_of(args[0]) if args else None
    if typing.get_origin(args[0] if args else None) is typing.Annotated:
        row = origin_of(typing.get_args(args[0])[0])
    return row if isinstance(row, type) and issubclass(row, BaseModel | Mapping) else None


def _is(annotation: Any, kinds: Any) -> bool:
    """One of these, or of these or None."""
    origin = origin_of(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(_is(each, kinds) for each in typing.get_args(annotation))
    return isinstance(origin, type) and issubclass(origin, kinds)


def _listed(names: Any) -> str:
    told = [repr(name)[:80] for name in names]
    return ", ".join(told[:20]) + (", ..." if len(told) > 20 else "") or "nothing"
