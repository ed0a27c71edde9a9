"""What a method gave, as named columns: each an array, or a list of plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy
from pydantic import BaseModel

from .standin.exceptions import BadInput

__all__ = ["OUTPUT", "named", "texts"]

OUTPUT = "output"
GROWTH, MIN_BYTES = 16, 64 * 1024


def named(value: Any) -> dict[str, Any]:
    """The columns of a frame, of a list of models or dictionaries, or of one (of one row); else one, `output`."""
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if type(value).__name__ == "DataFrame":
        return {str(name): value[name].to_numpy() for name in value.columns}
    if isinstance(value, Mapping):
        return {str(name): _column(each) for name, each in value.items()}
    if isinstance(value, list) and value and all(isinstance(each, BaseModel | Mapping) for each in value):
        rows = [each.model_dump(mode="json") if isinstance(each, BaseModel) else each for each in value]
        names = dict.fromkeys(str(name) for row in rows for name in row)
        return {name: [row.get(name) for row in rows] for name in names}
    return {OUTPUT: _column(value)}


def texts(found: list[Any], name: str) -> Any:
    """An array of text, as NumPy keeps it: each as long as the longest. Raises BadInput where that is out of all proportion."""
    if not all(isinstance(each, str) for each in found):
        raise BadInput(f"{name} must hold numbers or text.")
    longest, total = max(map(len, found), default=0), sum(map(len, found))
    if 4 * longest * len(found) > GROWTH * total + MIN_BYTES:
        raise BadInput(f"The texts of {name} are too unlike in length for an array.")
    return numpy.array(found, dtype=str)


def _column(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return [value.model_dump(mode="json")]
    return value if isinstance(value, numpy.ndarray | list) else [value]
