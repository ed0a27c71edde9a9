"""What a component costs: the contract between a provider, which knows, and the preview, which shows it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ekiben.records import Record

__all__ = ["FREE", "PRICES", "Cost", "Sum", "total"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost(Record):
    """Prices in USD, before taxes, discounts and free allowances. None: nobody knows it; 0: it is known to cost nothing.

    usd_per_month: what it costs unused. usd_per_1000_requests: beside that, of an endpoint or a function. usd_per_training_hour: of
    one run, on all its nodes. worst_usd_per_month: all that its spec allows, all month long. priced_on: the date of the price list,
    empty where there is none. why: what the prices rest on, or why they are not known.
    """

    usd_per_month: float | None = None
    usd_per_1000_requests: float | None = None
    usd_per_training_hour: float | None = None
    worst_usd_per_month: float | None = None
    priced_on: str = ""
    why: str = ""


FREE = Cost(usd_per_month=0.0, usd_per_1000_requests=0.0, usd_per_training_hour=0.0, worst_usd_per_month=0.0)

# Price -> what a table calls it.
PRICES = {
    "usd_per_month": "USD a month",
    "usd_per_1000_requests": "USD per 1,000 requests",
    "usd_per_training_hour": "USD per training hour",
    "worst_usd_per_month": "USD a month at worst",
}


class Sum(NamedTuple):
    """What is known of a sum, and how many prices are missing in it."""

    known_usd: float
    unknown: int


def total(costs: Iterable[Cost], price: str) -> Sum:
    """The sum of one price over components."""
    prices = [getattr(cost, price) for cost in costs]
    return Sum(sum(usd for usd in prices if usd is not None), prices.count(None))
