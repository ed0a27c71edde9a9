"""Budget: one of AWS Budgets, over what carries the stack's tags."""

from __future__ import annotations

from typing import Any

import pulumi_aws as aws

from ekiben import components
from ekiben.aws import SUPPORT, prices
from ekiben.aws.components.program import Aws
from ekiben.cost import Cost

__all__ = ["Budget", "notices"]

# What costs are counted by. AWS knows a tag only after somebody has activated it as a cost allocation tag.
TAGS = ("ekiben:platform", "ekiben:stack")


class Budget(Aws, components.Budget):
    """budget: AWS's."""

    support = SUPPORT
    budget: aws.budgets.Budget

    def create(self) -> None:
        self.budget = aws.budgets.Budget(
            self.name,
            budget_type="COST",
            time_unit="MONTHLY",
            limit_amount=f"{self.spec.monthly_usd:.2f}",
            limit_unit="USD",
            metrics="UnblendedCost",
            filter_expression={"ands": [{"tags": {"key": key, "values": [self.tags[key]]}} for key in TAGS]},
            notifications=notices(self.spec.spent_percent, self.spec.forecast_percent, self.spec.notify),
            tags=self.tags,
            opts=self.opts(),
        )
        self.ref = self.budget.arn

    def cost(self) -> Cost:
        return prices.budget()


def notices(spent: tuple[float, ...], forecast: tuple[float, ...], addresses: tuple[str, ...]) -> list[dict[str, Any]]:
    """When who is told: at these percentages of the budget, spent or to be expected."""
    return [
        {
            "notification_type": kind,
            "comparison_operator": "GREATER_THAN",
            "threshold": percent,
            "threshold_type": "PERCENTAGE",
            "subscriber_email_addresses": list(addresses),
        }
        for kind, shares in (("ACTUAL", spent), ("FORECASTED", forecast))
        for percent in sorted(set(shares))
    ]
