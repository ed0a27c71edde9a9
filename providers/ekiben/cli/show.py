"""What the verbs print: data on stdout, as text or as JSON; everything else on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from ekiben.records import Record

__all__ = ["clock", "line", "number", "paint", "progress", "say", "table", "to_json"]

_COLOURS = {"red": "31", "green": "32", "yellow": "33", "dim": "2", "bold": "1"}
_BY_STATE = {
    **dict.fromkeys(("ok", "ready", "running", "succeeded", "approved", "done", "alive"), "green"),
    **dict.fromkeys(("warn", "pending", "starting", "waiting", "retiring", "retained", "cancelled"), "yellow"),
    **dict.fromkeys(("fail", "failed", "dead", "rejected", "stopped"), "red"),
}


def to_json(value: Any) -> None:
    """Print `value` (records, lists and dicts of them) as JSON: keys sorted, no NaN."""
    text = json.dumps(value, default=_plain, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    line(text)


def line(text: str = "") -> None:
    print(text, file=sys.stdout)


def say(text: str) -> None:
    """A line for the person at the terminal: stderr, at once."""
    print(text, file=sys.stderr, flush=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], empty: str = "") -> None:
    """Aligned columns; `empty` is said when there are no rows."""
    if not rows:
        say(empty)
        return
    from rich.cells import cell_len

    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(cell_len(row[i]) for row in [list(columns), *cells]) for i in range(len(columns))]

    def put(row: Sequence[str], colour: str = "") -> None:
        padded = [cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        padded[-1] = row[-1]
        line("  ".join(paint(cell, colour or _BY_STATE.get(cell.strip(), "")) for cell in padded).rstrip())

    put(columns, "bold")
    for row in cells:
        put(row)


def paint(text: str, colour: str) -> str:
    """`text` in colour, where stdout is a terminal that wants colours."""
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if colour and _colours(sys.stdout) else text


def number(value: float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def clock(time: str) -> str:
    """An RFC 3339 time, to the second, for a table."""
    return time[:19].replace("T", " ")


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, a plain line at the end elsewhere. Yields `advance(n)`."""
    done = 0
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":

        def count(n: int) -> None:
            nonlocal done
            done += n

        yield count
        say(f"{label}: {done} of {total}")
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total)
        yield lambda n: bar.advance(task, n)


def _colours(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_dict()
    raise TypeError(f"{type(value).__name__} is no data")
