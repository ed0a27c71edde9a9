"""What Ekiben's own plugin knows of a kind of resource, and what it asks of the module that makes the kinds of a provider.

Plain values in and out, no Pulumi: an operation is a function of the kind and its inputs, and may be repeated after a crash.
"""

from __future__ import annotations

import importlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

__all__ = ["FAMILIES", "Family", "Json", "Kind", "changes", "family", "kind_of", "problems", "schema"]

# The middle of a type's token, as in ekiben:station:Bucket -> the module that makes them, loaded when one is asked for.
FAMILIES = {
    "aws": "ekiben.aws.declared",
    "kubernetes": "ekiben.kubernetes.declared",
    "station": "ekiben.local.declared",
}


class Json(str):
    """Marks an input that is JSON text: what counts is the value that it says."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of resource: its inputs and their types; those that only a replacement can change; those no diff looks at.

    chosen: inputs that are made up when a resource is first looked at, and are the same from then on.
    """

    name: str
    inputs: Mapping[str, type]
    outputs: Mapping[str, type]
    fixed: frozenset[str] = frozenset()
    quiet: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    chosen: Mapping[str, Callable[[], str]] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return self.name.lower()


class Family(Protocol):
    """The module of a provider's kinds. Mutating calls are repeatable; errors are those of `ekiben.errors`."""

    KINDS: Mapping[str, Kind]

    def problems(self, kind: Kind, inputs: Mapping[str, Any], unknown: object) -> list[tuple[str, str]]:
        """What is wrong with the inputs: property and reason. A value that is not known yet (`unknown`) is right.

        Raises what stands in the way of the thing itself.
        """

    def changes(self, kind: Kind, old: Mapping[str, Any], new: Mapping[str, Any], ignored: Sequence[str]) -> list[str]:
        """The inputs that differ."""

    def lost(self, kind: Kind, state: Mapping[str, Any]) -> str:
        """The output that is true no more, because somebody deleted the thing by hand; else empty."""

    def identity(self, kind: Kind, inputs: Mapping[str, Any]) -> str: ...

    def begun(self, kind: Kind, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The state of one whose making was begun, and nobody saw it end: what is `lost` is mended, and it can be deleted."""

    def put(
        self, kind: Kind, urn: str, inputs: Mapping[str, Any], timeout_s: float, stopped: threading.Event
    ) -> dict[str, Any]:
        """Make it so; returns the state. When `stopped` is set, what takes long is ended, and raises."""

    def read(self, kind: Kind, state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """(inputs, state) as they are now, None when it is gone."""

    def delete(self, kind: Kind, urn: str, state: Mapping[str, Any], timeout_s: float) -> None:
        """Undo it; silent where nothing is."""


def family(token: str) -> Family:
    """The module that makes the resources of a type, `ekiben:station:Bucket`, with or without its parents' types before it."""
    return cast(Family, importlib.import_module(FAMILIES[token.rpartition("$")[2].split(":")[1]]))


def kind_of(token: str) -> Kind:
    return family(token).KINDS[token.rpartition(":")[2]]


WORDS = {str: "text", Json: "JSON text", bool: "true or false", int: "a whole number", dict: "a map", list: "a list"}


def problems(kind: Kind, inputs: Mapping[str, Any], unknown: object) -> list[tuple[str, str]]:
    """What is wrong with the inputs by their names and types: see `Family.problems`."""
    known = ", ".join(sorted(kind.inputs))
    found = [(key, f"a {kind.name} has no such property; it has {known}") for key in inputs if key not in kind.inputs]
    for key, wanted in kind.inputs.items():
        value = inputs.get(key)
        if value != unknown and (why := _problem(kind, key, wanted, value)):
            found.append((key, why))
    return found


def _problem(kind: Kind, key: str, wanted: type, value: Any) -> str:
    if value is None or value == "":
        return "" if key in kind.optional else f"a {kind.name} needs it"
    if wanted is int:
        whole = isinstance(value, int | float) and not isinstance(value, bool) and float(value).is_integer()
        return "" if whole else f"{value!r} is not {WORDS[int]}"
    if not isinstance(value, str if wanted is Json else wanted):
        return f"{value!r} is not {WORDS[wanted]}"
    return "it is not JSON" if wanted is Json and not _is_json(str(value)) else ""


def changes(kind: Kind, old: Mapping[str, Any], new: Mapping[str, Any], ignored: Sequence[str] = ()) -> list[str]:
    """The inputs that differ."""
    return [
        key
        for key in kind.inputs
        if key not in kind.quiet and key not in ignored and _meaning(kind, key, old) != _meaning(kind, key, new)
    ]


def _meaning(kind: Kind, key: str, values: Mapping[str, Any]) -> Any:
    value = values.get(key)
    return json.loads(value) if kind.inputs[key] is Json and isinstance(value, str) and _is_json(value) else value


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


TYPES = {
    str: {"type": "string"},
    Json: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    list: {"type": "array", "items": {"type": "string"}},
    dict: {"type": "object", "additionalProperties": {"type": "string"}},
}
ANYTHING = {"type": "object", "additionalProperties": {"$ref": "pulumi.json#/Any"}}


def schema(version: str) -> str:
    """The plugin's schema, as Pulumi's tools read it."""
    resources = {}
    for middle in FAMILIES:
        for kind in family(f"ekiben:{middle}:").KINDS.values():
            inputs = {key: TYPES[wanted] for key, wanted in kind.inputs.items()}
            outputs = {key: ANYTHING if wanted is dict else TYPES[wanted] for key, wanted in kind.outputs.items()}
            required = [key for key in kind.inputs if key not in kind.optional]
            resources[f"ekiben:{middle}:{kind.name}"] = {
                "inputProperties": inputs,
                "requiredInputs": [key for key in required if key not in kind.chosen],
                "properties": {**inputs, **outputs},
                "required": [*required, *kind.outputs],
            }
    return json.dumps({"name": "ekiben", "version": version, "resources": resources})
