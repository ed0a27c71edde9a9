"""Inputs made from inputs: bytes changed, left out, repeated, put together, and words of the format put in."""

from __future__ import annotations

import random
from collections.abc import Sequence

__all__ = ["mutated"]

MAX_BYTES = 8192
NUMBERS = [
    b"0", b"1", b"-1", b"00", b"+1", b"1e999999", b"-1e999", b"1e-999", b"9" * 30, b"9" * 5000, b"4294967296", b"2147483648",
    b"9223372036854775808", b"18446744073709551616", b"0x10", b"1_0", b"NaN", b"-Infinity", b"0.1", b"1.7976931348623159e308",
]  # fmt: skip
ODD = [
    b"\x00", b"\r", b"\n", b"\r\n", b"\t", b" ", b"\x0b", b"\x7f", b"\x80", b"\xff", b"\xc3\xa9", b"\xed\xa0\x80", b'"', b"\\",
    b"\\ud800", b"\xe2\x80\xa8", b"[" * 300, b'{"a":' * 200, b"%00", b"%", b";", b",", b":", b"=", b"&", b"\xef\xbb\xbf",
    b"x" * 3000,
]  # fmt: skip


def mutated(seeds: Sequence[bytes], words: Sequence[bytes], draw: random.Random) -> bytes:
    """One of `seeds`, changed in a few places."""
    data = bytearray(draw.choice(seeds))
    for _ in range(1 << draw.randrange(4)):
        _change(data, seeds, words, draw)
    return bytes(data[:MAX_BYTES])


def _change(data: bytearray, seeds: Sequence[bytes], words: Sequence[bytes], draw: random.Random) -> None:
    at = draw.randrange(len(data) + 1)
    end = min(len(data), at + 1 + int(draw.expovariate(0.15)))
    match draw.randrange(9):
        case 0 if data:
            data[at - 1] ^= 1 << draw.randrange(8)
        case 1 if data:
            data[at - 1] = draw.randrange(256)
        case 2:
            del data[at:end]
        case 3:
            data[at:at] = data[at:end] * draw.choice((1, 1, 2, 20))
        case 4:
            data[at:at] = draw.choice(words or ODD)
        case 5:
            data[at:end] = draw.choice(words or ODD)
        case 6:
            data[at:at] = draw.choice(ODD)
        case 7:
            digits = _digits(data, at)
            data[digits] = draw.choice(NUMBERS)
        case _:
            other = draw.choice(seeds)
            start = draw.randrange(len(other) + 1)
            data[at:end] = other[start : start + draw.choice((8, 64, 4096))]


def _digits(data: bytearray, at: int) -> slice:
    """The number at or after `at`, or nothing there."""
    start = at
    while start < len(data) and not 48 <= data[start] <= 57:
        start += 1
    if start == len(data):
        return slice(at, at)
    end = start
    while end < len(data) and 48 <= data[end] <= 57:
        end += 1
    return slice(start, end)
