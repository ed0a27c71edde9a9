"""The comment on a pull request: what a preview says, as Markdown."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("pulumi")

from ekiben.cli.plan import cost_table, markdown, unbilled
from ekiben.cost import FREE as PRICELESS, PRICES, total
from ekiben.engine.stacks import Result

FREE = replace(PRICELESS, why="it is on the house")
STEP = {
    "op": "update",
    "type": "aws:s3:Bucket",
    "name": "lake",
    "urn": "u",
    "seconds": 0.0,
    "changed": ["tags.a", "acl"],
}


def result(**more: object) -> Result:
    return Result(**{"stack": "prod", "changes": {}, "steps": [], **more})  # type: ignore[arg-type]


def test_no_changes_are_said() -> None:
    assert markdown(result()) == "<!-- ekiben preview of prod -->\n### Preview of `prod`: no changes"


def test_changes_are_counted_and_listed() -> None:
    lines = markdown(result(changes={"update": 1, "create": 2}, steps=[STEP])).splitlines()
    assert lines[1] == "### Preview of `prod`: 2 to create, 1 to update"
    assert lines[-1] == "| update | Bucket | lake | tags.a, acl |"


def test_a_name_is_text_and_never_markup() -> None:
    (row,) = markdown(result(steps=[{**STEP, "name": "a|b<img src=x>\n`c`"}])).splitlines()[-1:]
    assert r"a\|b\<img src=x\> \`c\`" in row
    assert row.replace("\\|", "").count("|") == 5


def test_what_costs_nothing_says_why_in_one_line() -> None:
    assert (
        unbilled({"a": FREE, "b": FREE, "c": replace(FREE, why="it is a gift")}) == "It is on the house. It is a gift."
    )
    assert markdown(result(costs={"a": FREE})).endswith("Cost: nothing. It is on the house.")


@pytest.mark.parametrize("price", PRICES)
def test_what_is_not_known_is_never_shown_as_nothing(price: str) -> None:
    costs = {"a": FREE, "b": replace(FREE, **{price: None})}
    assert unbilled(costs) == ""
    assert "unknown" in cost_table(costs)[1]
    assert total(costs.values(), price) == (0.0, 1)


def test_small_prices_are_not_rounded_away() -> None:
    shown = cost_table({"api": replace(FREE, usd_per_month=1234.5, usd_per_1000_requests=0.000207)})[0]
    assert shown[1:3] == ("1,234.50", "0.000207")


def test_nothing_is_said_of_the_cost_of_no_components() -> None:
    assert "ost" not in markdown(result(steps=[STEP]))
