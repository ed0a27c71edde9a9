"""What a preview says: the changes and what it will all cost, for a terminal and for a comment on a pull request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ekiben.cost import PRICES, Cost, total

if TYPE_CHECKING:
    from ekiben.engine.stacks import Result

__all__ = ["COST_COLUMNS", "cost_table", "markdown", "marker", "unbilled"]

SUMMED = ("usd_per_month", "worst_usd_per_month")
COST_COLUMNS = ("component", *PRICES.values(), "priced on", "why")


def marker(stack: str) -> str:
    """The first line of the Markdown: a comment that begins with it is the one to update."""
    return f"<!-- ekiben preview of {stack} -->"


def markdown(result: Result) -> str:
    """The changes and the cost, with `marker` as the first line."""
    counts = ", ".join(f"{number} to {operation}" for operation, number in sorted(result.changes.items()))
    parts = [marker(result.stack), f"### Preview of `{result.stack}`: {counts or 'no changes'}", ""]
    if result.steps:
        changes = [
            (step["op"], step["type"].rpartition(":")[2], step["name"], ", ".join(step["changed"]))
            for step in result.steps
        ]
        parts += [*_grid(("", "kind", "name", "what changes"), changes), ""]
    if why := unbilled(result.costs):
        parts += [f"Cost: nothing. {why}", ""]
    elif result.costs:
        about = "Cost in USD, before taxes, discounts and free allowances:"
        parts += [about, "", *_grid(COST_COLUMNS, cost_table(result.costs)), ""]
    return "\n".join(parts).rstrip()


def unbilled(costs: Mapping[str, Cost]) -> str:
    """Why none of the components costs anything, as a sentence; empty when one does, or when that is not known."""
    if any(getattr(cost, price) != 0 for cost in costs.values() for price in PRICES):
        return ""
    reasons = dict.fromkeys(cost.why for cost in costs.values() if cost.why)
    return " ".join(f"{why[0].upper()}{why[1:]}." for why in reasons)


def cost_table(costs: Mapping[str, Cost]) -> list[tuple[str, ...]]:
    """A row for each component, by name, and one with the sums. An unknown price is said to be unknown, in the sums too."""
    rows = [
        (name, *(_usd(getattr(cost, price)) for price in PRICES), cost.priced_on, cost.why)
        for name, cost in sorted(costs.items())
    ]
    sums = []
    for price in PRICES:
        known, unknown = total(costs.values(), price)
        sums.append("" if price not in SUMMED else f"{_usd(known)} + {unknown} unknown" if unknown else _usd(known))
    return [*rows, ("sum", *sums, "", "")]


def _usd(price: float | None) -> str:
    if price is None:
        return "unknown"
    return f"{price:,.2f}" if price == 0 or price >= 1 else f"{price:.3g}"


def _grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A Markdown table; what is in the cells is text, never Markdown or HTML."""
    yield "| " + " | ".join(columns) + " |"
    yield "|---" * len(columns) + "|"
    for row in rows:
        yield "| " + " | ".join(_plain(cell) for cell in row) + " |"


def _plain(cell: str) -> str:
    for character in "\\`*_[]<>|":
        cell = cell.replace(character, f"\\{character}")
    return " ".join(cell.split())
