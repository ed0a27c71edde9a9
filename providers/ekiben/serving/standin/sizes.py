"""What a few bytes of JSON would grow into as an array or a frame, known before it is made.

NumPy gives each text of an array the room of the longest, and pandas makes a table of rows that have no column in common:
100 KB of either can take up gigabytes.
"""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

__all__ = ["check_frame", "check_texts"]

# Nothing is refused below these, nor below so many times what was given.
MIN_TEXT_BYTES, TEXT_GROWTH = 64 * 1024 * 1024, 32
MIN_CELLS, CELLS_GROWTH = 1_000_000, 16
BYTES_OF_CHARACTER = 4
# A number beside a text becomes a text.
CHARACTERS_OF_NUMBER = 32


def check_texts(given: Any) -> None:
    """Raises ValueError for nested lists whose texts take up far more as an array. Numbers alone pass."""
    count = characters = longest = 0
    others = False
    rest = [given] if isinstance(given, list) else []
    while rest:
        row = rest.pop()
        kinds = set(map(type, row))
        if list in kinds:
            rest += [each for each in row if type(each) is list]
        if str in kinds:
            lengths = [len(each) for each in row if type(each) is str]
            longest = max(longest, *lengths)
            characters += sum(lengths)
        others = others or bool(kinds - {str, list})
        count += len(row)
    if longest and others:
        longest = max(longest, CHARACTERS_OF_NUMBER)
    size = BYTES_OF_CHARACTER * count * longest
    if size > max(MIN_TEXT_BYTES, TEXT_GROWTH * (count + characters)):
        raise ValueError(f"its texts would take up {size} bytes: in an array each has the room of the longest")


def check_frame(given: Any) -> None:
    """Raises ValueError for rows or columns that have so little in common that a table of them is nearly empty."""
    if not isinstance(given, list | dict):
        return
    parts = list(given.values()) if isinstance(given, dict) else given
    names: set[Any] = set().union(*(each for each in parts if isinstance(each, dict)))
    longest = max((len(each) for each in parts if isinstance(each, list)), default=0)
    cells = len(parts) * (len(names) + longest)
    held = len(parts) + sum(len(each) for each in parts if isinstance(each, Sized))
    if cells > max(MIN_CELLS, CELLS_GROWTH * held):
        raise ValueError(f"it would have {cells} cells, and values for {held} of them at most")
