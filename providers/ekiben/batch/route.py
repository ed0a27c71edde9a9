"""Which route of a service takes batches, what it takes, and whether the input has it: read from the bento, nothing is run.

A batch route is a plain `@bentoml.api` with one parameter: a numpy array or a DataFrame (its rows are the rows), or a list of a
pydantic model (or of numbers or texts). What else it takes must have a default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ekiben.errors import SpecError

__all__ = ["Column", "Route", "batch_route"]

FRAME_ROWS = 65_536
LIST_ROWS = 1_000
SCALARS = ("number", "integer", "boolean", "string")


@dataclass(frozen=True)
class Column:
    """What a route expects of a column. type: number, integer, boolean, string, or empty for whatever it is."""

    name: str
    type: str = ""
    required: bool = True
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True)
class Route:
    """A batch route. kind: matrix, frame or rows (see worker.py); `columns` is empty where it takes any; answer: JSON schema."""

    name: str
    kind: str
    columns: tuple[Column, ...]
    max_rows: int
    dtype: str = ""
    flat: bool = False
    answer: Mapping[str, Any] = field(default_factory=dict)


def batch_route(bento: Path, signature: Mapping[str, Any], name: str = "") -> Route:
    """The route `name` of the bento in a folder, or its only one for batches. Raises SpecError, naming those there are.

    `signature` is that of the model: its columns give an array's columns their names and order.
    """
    import yaml

    about = yaml.safe_load((bento / "bento.yaml").read_text(encoding="utf-8"))
    routes = {route["name"]: route for route in (about.get("schema") or {}).get("routes", [])}
    how = (
        "Give the service a route with one parameter that is a numpy array, a pandas DataFrame or a list of a pydantic model "
        "(docs/batch.md)."
    )
    if name:
        if name not in routes:
            raise SpecError(f"The bento has no route {name!r}; it has: {', '.join(sorted(routes)) or 'none'}.")
        if (found := _route(routes[name], signature)) is None:
            raise SpecError(f"The route {name!r} takes no batches. {how}")
        return found
    fitting = {name: found for name, route in routes.items() if (found := _route(route, signature))}
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    if fitting:
        raise SpecError(f"The bento has several routes for batches: choose with --route {' | '.join(sorted(fitting))}.")
    raise SpecError(f"No route of the bento takes batches ({', '.join(sorted(routes)) or 'it has none'}). {how}")


def _route(route: Mapping[str, Any], signature: Mapping[str, Any]) -> Route | None:
    """The route, if it takes batches."""
    schema = route.get("input") or {}
    if route.get("is_task") or (route.get("output") or {}).get("is_stream"):
        return None
    properties = {"": schema} if schema.get("root_input") else schema.get("properties") or {}
    needed = (
        list(properties) if schema.get("root_input") else [n for n in properties if n in schema.get("required", [])]
    )
    if len(needed) != 1 or next(iter(properties)) != needed[0]:
        return None
    name, taken, answer = route["name"], _inlined(properties[needed[0]], schema), route.get("output") or {}
    answer = _inlined(answer, answer)
    if taken.get("type") == "tensor" and taken.get("format") == "numpy-array":
        columns = _signature(signature)
        shape = taken.get("shape") or []
        if not columns:
            raise SpecError(
                f"The route {name!r} takes an array, whose columns have no names: let the model's signature say them "
                '("columns" in signature.json).'
            )
        if len(shape) == 1 and len(columns) > 1 or len(shape) == 2 and shape[1] not in (-1, len(columns)):
            raise SpecError(
                f"The route {name!r} takes an array of the shape {tuple(shape)}, and the model's signature has "
                f"{len(columns)} columns. One of the two is wrong."
            )
        if len(shape) > 2:
            return None
        dtype = taken.get("dtype") or "float64"
        typed = tuple(_of_dtype(column, dtype) for column in columns)
        return Route(name, "matrix", typed, FRAME_ROWS, dtype=dtype, flat=len(shape) == 1, answer=answer)
    if taken.get("type") == "dataframe":
        known = {column.name: column for column in _signature(signature)}
        columns = tuple(known.get(n, Column(n, nullable=True)) for n in taken.get("columns") or known)
        return Route(name, "frame", columns, FRAME_ROWS, answer=answer)
    if taken.get("type") == "array":
        columns = _fields(taken.get("items") or {}, signature)
        if not columns:
            return None
        flat = (taken.get("items") or {}).get("type") != "object"
        most = min(taken.get("maxItems") or LIST_ROWS, LIST_ROWS)
        return Route(name, "rows", columns, most, flat=flat, answer=answer)
    return None


def _inlined(schema: Any, root: Mapping[str, Any], inside: tuple[str, ...] = ()) -> Any:
    """A JSON schema with what it refers to in place; a type that holds itself becomes any type."""
    if isinstance(schema, list):
        return [_inlined(entry, root, inside) for entry in schema]
    if not isinstance(schema, Mapping):
        return schema
    if place := schema.get("$ref"):
        found = (root.get("$defs") or {}).get(place.rpartition("/")[2]) or {}
        return {} if place in inside else _inlined(found, root, (*inside, place))
    return {name: _inlined(entry, root, inside) for name, entry in schema.items() if name != "$defs"}


def _signature(signature: Mapping[str, Any]) -> tuple[Column, ...]:
    """The columns of a model's signature: names, or objects in JSON schema's words (name, type, nullable, minimum, maximum)."""
    found = []
    for entry in signature.get("columns") or []:
        about: Mapping[str, Any] = {"name": entry} if isinstance(entry, str) else entry
        name, type, nullable = str(about["name"]), str(about.get("type") or ""), bool(about.get("nullable", True))
        found.append(Column(name, type, True, nullable, about.get("minimum"), about.get("maximum")))
    return tuple(found)


def _of_dtype(column: Column, dtype: str) -> Column:
    """The column with the type and the bounds that an array's dtype has."""
    found = re.fullmatch(r"(u?)int(\d+)", dtype)
    if found is None:
        return replace(column, type="boolean" if dtype.startswith("bool") else "number")
    unsigned, bits = bool(found[1]), int(found[2])
    low, high = (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    narrow = bits < 64
    low_bound = low if column.minimum is None and (narrow or unsigned) else column.minimum
    high_bound = high if column.maximum is None and narrow else column.maximum
    return replace(column, type="integer", nullable=False, minimum=low_bound, maximum=high_bound)


def _fields(item: Mapping[str, Any], signature: Mapping[str, Any]) -> tuple[Column, ...]:
    """The columns of a list's items: an object's properties, or the model's only column."""
    if item.get("type") in SCALARS:
        names = [column.name for column in _signature(signature)]
        return tuple(Column(name, item["type"]) for name in names) if len(names) == 1 else ()
    required = item.get("required") or []
    return tuple(_field(name, about, name in required) for name, about in (item.get("properties") or {}).items())


def _field(name: str, about: Mapping[str, Any], required: bool) -> Column:
    # Bounds are pydantic's own to check: it knows more of them, and says them better.
    options = [about, *about.get("anyOf", [])]
    types = {option.get("type", "") for option in options if option.get("type") or "anyOf" not in option}
    # BentoML's schema leaves null out of what else a value may be; a default of null tells.
    nullable = "null" in types or ("default" in about and about["default"] is None)
    types -= {"null"}
    type = types.pop() if len(types) == 1 else ""
    return Column(name, type if type in SCALARS else "", required, nullable)
