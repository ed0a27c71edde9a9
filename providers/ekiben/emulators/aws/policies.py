"""Conditions of policies, which moto takes for unmet wherever it does not know them: a bucket that demands TLS was closed to all.

The emulator stands for an HTTPS endpoint, so a request counts as sent over TLS. A key that is not known here has no value, and a
condition on it holds as IAM says of absent keys.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any

from moto.iam.access_control import IAMPolicyStatement, PermissionResult

__all__ = ["allowed", "hold", "obey", "service_may"]

KNOWN = {"aws:SecureTransport": "true"}


def hold(conditions: Mapping[str, Mapping[str, Any]], values: Mapping[str, str]) -> bool:
    """Do all conditions of a statement hold? Raises ValueError for an operator that is not known."""
    there = {key.lower(): value for key, value in values.items()}
    return all(
        _holds(operator, wanted if isinstance(wanted, list) else [wanted], there.get(key.lower()))
        for operator, keys in conditions.items()
        for key, wanted in keys.items()
    )


def obey() -> None:
    """Have moto judge statements by their conditions."""
    plainly = IAMPolicyStatement.is_action_permitted

    def judge(
        self: IAMPolicyStatement, action: str, resource: str = "*", principal: str | None = None,
        incoming_condition_values: dict[str, str] | None = None,
    ) -> PermissionResult:  # fmt: skip
        statement = dict(self._statement)
        conditions = statement.pop("Condition", None)
        if conditions and not hold(conditions, {**KNOWN, **(incoming_condition_values or {})}):
            return PermissionResult.NEUTRAL
        return plainly(IAMPolicyStatement(statement), action, resource, principal)

    IAMPolicyStatement.is_action_permitted = judge  # type: ignore[method-assign]


def allowed(statements: Iterable[Mapping[str, Any]], action: str, resource: str, values: Mapping[str, str]) -> bool:
    """Do these statements of a role allow it, and none of them deny it?"""
    found = False
    for statement in statements:
        if (
            any(_like(action.lower(), one.lower()) for one in _listed(statement.get("Action")))
            and any(_like(resource, one) for one in _listed(statement.get("Resource")))
            and hold(statement.get("Condition", {}), {**KNOWN, **values})
        ):
            if statement["Effect"] == "Deny":
                return False
            found = True
    return found


def service_may(policy: Mapping[str, Any], service: str, action: str, resource: str, values: Mapping[str, str]) -> bool:
    """Does a resource's own policy let a service do this? `values`: those of the keys that its conditions may name."""
    allowed = False
    statements = policy["Statement"]
    for statement in statements if isinstance(statements, list) else [statements]:
        who = statement.get("Principal", {})
        names = [who] if isinstance(who, str) else [*_listed(who.get("Service")), *_listed(who.get("AWS"))]
        if (
            (service in names or "*" in names)
            and any(_like(action.lower(), one.lower()) for one in _listed(statement.get("Action")))
            and any(resource == "*" or _like(resource, one) for one in _listed(statement.get("Resource", "*")))
            and hold(statement.get("Condition", {}), {**KNOWN, **values})
        ):
            if statement["Effect"] == "Deny":
                return False
            allowed = True
    return allowed


def _listed(value: Any) -> list[str]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _like(value: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(value, pattern.replace("[", "[[]"))


def _holds(operator: str, wanted: list[Any], value: str | None) -> bool:
    name = operator.rpartition(":")[2]
    optional, name = name.endswith("IfExists"), name.removesuffix("IfExists")
    if name == "Null":
        return str(wanted[0]).lower() == str(value is None).lower()
    negated = "Not" in name
    if value is None:
        return optional or negated or operator.startswith("ForAllValues:")
    return any(_matches(name.replace("Not", ""), str(one), value) for one in wanted) != negated


def _matches(name: str, wanted: str, value: str) -> bool:
    match name:
        case "StringEquals" | "ArnEquals" | "BinaryEquals":
            return value == wanted
        case "StringEqualsIgnoreCase" | "Bool":
            return value.lower() == wanted.lower()
        case "StringLike" | "ArnLike":
            return _like(value, wanted)
        case "NumericEquals":
            return float(value) == float(wanted)
    raise ValueError(f"the emulator does not know the condition operator {name}")
