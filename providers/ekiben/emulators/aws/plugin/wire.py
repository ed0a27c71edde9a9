"""When two values say the same, and what the user said, with what was found in its place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["as_json", "filled", "same"]


def as_json(value: Any) -> Any:
    """The value that a JSON text is of, None where it is none."""
    if not isinstance(value, str) or value[:1] not in ("{", "["):
        return None
    try:
        return json.loads(value)
    except ValueError:
        return None


def same(one: Any, other: Any) -> bool:
    """Are these the same value? JSON documents are when they say the same, assets when they hold the same."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if "hash" in one and "hash" in other:
            return bool(one["hash"] == other["hash"])
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, str) and isinstance(other, str) and one != other:
        first, second = as_json(one), as_json(other)
        return first is not None and bool(first == second)
    return bool(one == other)


def filled(inputs: Any, found: Any, free: bool = False) -> Any:
    """What the user asked for, with what was found in its place: nothing that the cloud filled in, nothing that is the same.

    free: `inputs` is a map with keys of the user's own, and what was added or taken away there counts.
    """
    if found is None or same(inputs, found):
        return inputs
    if isinstance(inputs, Mapping) and isinstance(found, Mapping) and not free:
        return {key: filled(item, found.get(key), key in ("tags", "variables")) for key, item in inputs.items()}
    if isinstance(inputs, list) and isinstance(found, list) and len(inputs) == len(found):
        return [filled(item, other) for item, other in zip(inputs, found, strict=True)]
    return found
