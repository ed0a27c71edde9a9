"""Are these inputs what the installed SDK says that they are? Unknown names, wrong types and missing ones are told."""

from __future__ import annotations

import collections.abc
import enum
import functools
import importlib
import inspect
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import pulumi
from pulumi import _types
from pulumi.runtime.rpc import UNKNOWN

__all__ = ["SIGNATURE", "problems"]

# Marks what is no plain map: an asset or an archive (https://www.pulumi.com/docs, "signature").
SIGNATURE = "4dabf18193072939515e22adb298388d"
ARCHIVE, ASSET = "0def7320c3a5731c473e5ecbe6d01bc7", "c44067f5952c0a294b673a41bacd8c17"
WORDS = {str: "a string", bool: "true or false", int: "a whole number", float: "a number"}


def problems(module: str, name: str, inputs: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is wrong with the inputs of the resource `name` of the SDK's `module`: (property, why)."""
    return list(_object(_inputs(module, name), inputs, ""))


@functools.cache
def _inputs(module: str, name: str) -> type:
    """The class of a resource's inputs: `BucketArgs`, or `BucketInitArgs` where the first name is taken."""
    package = importlib.import_module(module)
    found: type = getattr(package, name + "InitArgs", None) or getattr(package, name + "Args")
    return found


@functools.cache
def _fields(cls: type) -> tuple[dict[str, Any], set[str]]:
    """The types of a class of inputs, by the wire's names, and which must be given."""
    wire = _types.input_type_py_to_pulumi_names(cls)
    parameters = inspect.signature(cls).parameters
    required = {wire[name] for name, one in parameters.items() if one.default is inspect.Parameter.empty}
    return dict(_types.input_type_types(cls)), required


def _object(cls: type, value: Mapping[str, Any], where: str) -> Iterator[tuple[str, str]]:
    types, required = _fields(cls)
    for name in sorted(required - value.keys()):
        yield where + name, "it must be given"
    for name, item in value.items():
        if name not in types:
            yield where + name, f"{cls.__name__} has no such property"
        else:
            yield from _value(types[name], item, where + name)


def _value(type_: Any, value: Any, where: str) -> Iterator[tuple[str, str]]:
    if value == UNKNOWN:
        return
    choices = list(_choices(type_))
    first: list[tuple[str, str]] | None = None
    for choice in choices:
        found = list(_one(choice, value, where))
        if not found:
            return
        # What is said about the kind of thing that was given is of more use than about another.
        if first is None or isinstance(value, Mapping) and inspect.isclass(choice) and _types.is_input_type(choice):
            first = found
    yield from first or ()


def _choices(type_: Any) -> Iterator[Any]:
    """The types that a wire value may have: without None, awaitables and outputs, which stand for one of the others."""
    if typing.get_origin(type_) is typing.Union:
        for one in typing.get_args(type_):
            if one is not type(None) and typing.get_origin(one) not in (collections.abc.Awaitable, pulumi.Output):
                yield from _choices(one)
    else:
        yield type_


def _one(type_: Any, value: Any, where: str) -> Iterator[tuple[str, str]]:
    origin, arguments = typing.get_origin(type_), typing.get_args(type_)
    if type_ is Any:
        return
    if origin in (collections.abc.Sequence, list):
        if isinstance(value, list):
            for index, item in enumerate(value):
                yield from _value(arguments[0], item, f"{where}[{index}]")
        else:
            yield where, _wrong("a list", value)
    elif origin in (collections.abc.Mapping, dict):
        if isinstance(value, Mapping):
            for key, item in value.items():
                yield from _value(arguments[1], item, f"{where}.{key}")
        else:
            yield where, _wrong("a map", value)
    elif inspect.isclass(type_) and issubclass(type_, pulumi.Archive | pulumi.Asset):
        signature = value.get(SIGNATURE) if isinstance(value, Mapping) else ""
        if signature != (ARCHIVE if issubclass(type_, pulumi.Archive) else ASSET):
            yield where, _wrong(f"an {type_.__name__.lower()}", value)
    elif inspect.isclass(type_) and issubclass(type_, enum.Enum):
        if value not in [one.value for one in type_]:
            yield where, _wrong("one of " + ", ".join(str(one.value) for one in type_), value)
    elif inspect.isclass(type_) and _types.is_input_type(type_):
        if isinstance(value, Mapping):
            yield from _object(type_, value, where + ".")
        else:
            yield where, _wrong("an object", value)
    elif type_ in WORDS and not _scalar(type_, value):
        yield where, _wrong(WORDS[type_], value)


def _scalar(type_: type, value: Any) -> bool:
    """The engine's own leniency: numbers and booleans in place of strings are taken as text, and the other way round."""
    if type_ is bool:
        return isinstance(value, bool) or value in ("true", "false")
    if type_ is str:
        return isinstance(value, str | int | float)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, bool) and (type_ is float or number.is_integer())


def _wrong(wanted: str, value: Any) -> str:
    return f"it must be {wanted}, and is {str(value)[:80]!r}"
