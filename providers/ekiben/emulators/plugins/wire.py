"""Values as the engine sends them, and as Python has them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format, struct_pb2
from pulumi.runtime.rpc import UNKNOWN

__all__ = ["plain", "struct", "unique_name", "unknown"]


def plain(message: Any) -> dict[str, Any]:
    """A message's values: whole numbers as int, what is null left out. What is not known yet stays UNKNOWN."""
    return dict(_plain(json_format.MessageToDict(message)))


def struct(values: Mapping[str, Any]) -> Any:
    made = struct_pb2.Struct()
    json_format.ParseDict(dict(values), made)
    return made


def unknown(value: Any) -> bool:
    """Is a part of it not known yet?"""
    if isinstance(value, Mapping):
        return any(map(unknown, value.values()))
    return any(map(unknown, value)) if isinstance(value, list) else bool(value == UNKNOWN)


def unique_name(urn: str, seed: bytes, *, tail_chars: int, name_chars: int, end: str = "") -> str:
    """The program's name for a resource and some hexadecimal digits, as Pulumi names what nobody has named."""
    tail = "-" + hashlib.sha256(seed or os.urandom(16)).hexdigest()[:tail_chars] + end
    return urn.split("::", 3)[3][: name_chars - len(tail)] + tail


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
