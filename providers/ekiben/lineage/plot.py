"""Plots as SVG text: drawn by hand, so that a page needs no library and takes its colours from its style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

__all__ = ["dumbbells"]

WIDTH, LABEL, VALUE, ROW, HEAD = 820, 270, 175, 24, 30
LONGEST = 34


def dumbbells(rows: Sequence[tuple[str, float | None, float | None]], title: str) -> str:
    """A row for each (label, a, b): a hollow dot at a, a full one at b, a line between them, both values at the right."""
    values = [value for _, a, b in rows for value in (a, b) if value is not None]
    low, high, ticks = _axis(values)
    left, right = LABEL, WIDTH - VALUE
    height = HEAD + ROW * len(rows) + 6

    def x(value: float) -> float:
        return round(left + (value - low) / (high - low) * (right - left), 1)

    parts = []
    for tick in ticks:
        at = x(tick)
        parts.append(
            f"<line class=grid x1={at} x2={at} y1={HEAD - 6} y2={height} /><text class=tick x={at} y=16>{_text(tick)}</text>"
        )
    for i, (label, a, b) in enumerate(rows):
        y = HEAD + ROW * i + ROW // 2
        parts.append(f"<g><title>{escape(label)}: {_text(a)} and {_text(b)}</title>")
        parts.append(f"<text class=label x={left - 12} y={y + 4}>{escape(_short(label))}</text>")
        if a is not None and b is not None:
            parts.append(f"<line class=span x1={x(a)} x2={x(b)} y1={y} y2={y} />")
        if a is not None:
            parts.append(f"<circle class=a cx={x(a)} cy={y} r=5 />")
        if b is not None:
            parts.append(f"<circle class=b cx={x(b)} cy={y} r=4 />")
        parts.append(
            f"<text class=value x={right + 14} y={y + 4}>{_text(a)} <tspan class=arrow>→</tspan> {_text(b)}</text></g>"
        )
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role=img aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """The ends of the axis, and its ticks: round numbers, all values within."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    spread = high - low or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(spread / 4))
    step = next(step * factor for factor in (1, 2, 2.5, 5, 10) if spread / (step * factor) <= 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    last = last if last > first else first + 1
    return first * step, last * step, [number * step for number in range(first, last + 1)]


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _short(label: str) -> str:
    return label if len(label) <= LONGEST else label[: LONGEST - 1] + "…"
