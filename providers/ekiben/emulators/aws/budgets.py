"""AWS Budgets, where moto lacks a change of a budget, and its tags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moto.budgets.models import budgets_backends
from moto.core.utils import unix_time

from ekiben.emulators.aws.call import Answer, Call, Refused

__all__ = ["create", "list_tags", "tag", "untag", "update"]


def create(moto: Callable[[Call], Answer], call: Call) -> Answer:
    """CreateBudget: moto makes it, and its tags are kept with it."""
    asked = call.json
    answer = moto(call)
    if answer.status == 200:
        found = _found(call, asked["AccountId"], asked["Budget"]["BudgetName"])
        found.tags = {one["Key"]: one["Value"] for one in asked.get("ResourceTags") or ()}
    return answer


def update(call: Call) -> Answer:
    asked = call.json
    found = _found(call, asked["AccountId"], asked["NewBudget"]["BudgetName"])
    kept = {key: found.budget[key] for key in ("TimePeriod",) if key in found.budget}
    found.budget = {**kept, **asked["NewBudget"], "LastUpdatedTime": unix_time()}
    return Answer.of({})


def list_tags(call: Call) -> Answer:
    tags = _tags(call)
    return Answer.of({"ResourceTags": [{"Key": key, "Value": value} for key, value in tags.items()]})


def tag(call: Call) -> Answer:
    _tags(call).update({one["Key"]: one["Value"] for one in call.json["ResourceTags"]})
    return Answer.of({})


def untag(call: Call) -> Answer:
    tags = _tags(call)
    for key in call.json["ResourceTagKeys"]:
        tags.pop(key, None)
    return Answer.of({})


def _tags(call: Call) -> dict[str, str]:
    """Of arn:aws:budgets::ACCOUNT:budget/NAME."""
    *_, account, name = str(call.json["ResourceARN"]).split(":")
    found = _found(call, account, name.partition("/")[2])
    tags: dict[str, str] = found.__dict__.setdefault("tags", {})
    return tags


def _found(call: Call, account: str, name: str) -> Any:
    there = budgets_backends[call.account]["aws"].budgets[account]
    if name not in there:
        raise Refused("NotFoundException", f"Unable to get budget: {name} - the budget doesn't exist.")
    return there[name]
