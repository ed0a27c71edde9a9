"""JSON straight into arrays of floats: what pydantic and the array's own validator would make of it, without the objects between.

Whatever is odd in a request is left to them, and so is what they say about it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .standin.annotations import UNFIT, TensorSchema

__all__ = ["reader"]

Read = Callable[["bytes | bytearray"], "dict[str, Any] | None"]
# Whole numbers beyond 64 bits are floats to orjson: to an array of floats it is all the same.
FLOATS = frozenset({"float16", "float32", "float64"})


def reader(spec: Any) -> Read | None:
    """What reads a body as the arguments of a method all of whose parameters are arrays of floats; None for any other method.

    It gives None for a body that it does not read.
    """
    fields = {name: info.metadata for name, info in spec.model_fields.items()}
    if not fields or not getattr(spec, "__inferred__", False) or not all(map(_floats, fields.values())):
        return None
    try:
        import orjson
    except ImportError:
        return None
    import numpy

    loads, array = orjson.loads, numpy.array
    kinds = [(name, numpy.dtype(schema.dtype), schema.shape) for name, (schema,) in fields.items()]
    count = len(kinds)

    def read(body: bytes | bytearray) -> dict[str, Any] | None:
        try:
            given = loads(body)
            if len(given) != count:
                return None
            found = {}
            for name, dtype, shape in kinds:
                value = array(given[name], dtype)
                found[name] = value if shape is None else value.reshape(shape)
            return found
        except (*UNFIT, ValueError):
            return None

    return read


def _floats(metadata: list[Any]) -> bool:
    return len(metadata) == 1 and isinstance(metadata[0], TensorSchema) and metadata[0].dtype in FLOATS
