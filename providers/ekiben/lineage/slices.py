"""The slices of an evaluation: rows with texts that name a group and numbers that measure it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["label", "measures", "numbers"]


def label(row: Mapping[str, Any]) -> str:
    """What a slice is called: its texts, "sex: female"."""
    return ": ".join(str(value) for value in row.values() if isinstance(value, str)) or "all"


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """What was measured on a slice."""
    return {
        name: value for name, value in row.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }


def measures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of all that was measured, in the order in which they first come."""
    return list(dict.fromkeys(name for row in rows for name in numbers(row)))
