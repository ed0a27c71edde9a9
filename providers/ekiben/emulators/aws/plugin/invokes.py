"""The functions of `aws` that a program calls."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from ekiben.emulators.aws.plugin.kind import Aws, Props

__all__ = ["INVOKES", "document"]


def _identity(aws: Aws, asked: Props) -> dict[str, Any]:
    told = aws.client("sts").get_caller_identity()
    return {"accountId": told["Account"], "arn": told["Arn"], "userId": told["UserId"], "id": told["Account"]}


def _region(aws: Aws, asked: Props) -> dict[str, Any]:
    name = asked.get("region") or asked.get("name") or aws.region
    return {"id": name, "name": name, "region": name, "endpoint": f"ec2.{name}.amazonaws.com", "description": name}


def _partition(aws: Aws, asked: Props) -> dict[str, Any]:
    """By the region, as AWS has them."""
    name = {"cn": "aws-cn", "us-gov": "aws-us-gov"}.get(aws.region.rpartition("-")[0].rpartition("-")[0], "aws")
    suffix = "amazonaws.com.cn" if name == "aws-cn" else "amazonaws.com"
    return {
        "id": name,
        "partition": name,
        "dnsSuffix": suffix,
        "reverseDnsPrefix": ".".join(reversed(suffix.split("."))),
    }


def document(aws: Aws, asked: Props) -> dict[str, Any]:
    """A policy document, put together here, as AWS's own provider does without a call.

    A list of one is that one alone, lists are in reverse order of the alphabet, and a later statement takes the place of an earlier
    one with the same `sid`.
    """
    made: dict[str, Any] = {"Version": asked.get("version", "2012-10-17")}
    if "policyId" in asked:
        made["Id"] = asked["policyId"]
    statements: list[dict[str, Any]] = []
    for source in asked.get("sourcePolicyDocuments", ()):
        _merge(statements, _statements(source), replace=False)
    _merge(statements, [_statement(one) for one in asked.get("statements", ())], replace=bool(statements))
    for source in asked.get("overridePolicyDocuments", ()):
        _merge(statements, _statements(source), replace=True)
    made["Statement"] = statements
    text = json.dumps(made, indent=2)
    return {
        **asked,
        "json": text,
        "minifiedJson": json.dumps(made, separators=(",", ":")),
        "id": str(zlib.crc32(text.encode())),
    }


def _statements(text: str) -> list[dict[str, Any]]:
    found = json.loads(text).get("Statement", [])
    return found if isinstance(found, list) else [found]


def _merge(into: list[dict[str, Any]], more: list[dict[str, Any]], *, replace: bool) -> None:
    for statement in more:
        sid = statement.get("Sid")
        there = next((index for index, one in enumerate(into) if sid and one.get("Sid") == sid), None)
        if there is None:
            into.append(statement)
        elif replace:
            into[there] = statement
        else:
            raise ValueError(f"aws: cannot make the policy document: the Sid {sid!r} is there twice. Give each its own")


def _statement(asked: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"Sid": asked["sid"]} if asked.get("sid") else {}
    made["Effect"] = asked.get("effect", "Allow")
    for ours, theirs in (("actions", "Action"), ("notActions", "NotAction"), ("resources", "Resource"),
                         ("notResources", "NotResource")):  # fmt: skip
        if asked.get(ours):
            made[theirs] = _few(asked[ours])
    for ours, theirs in (("principals", "Principal"), ("notPrincipals", "NotPrincipal")):
        if asked.get(ours):
            made[theirs] = _principals(asked[ours])
    for condition in asked.get("conditions", ()):
        made.setdefault("Condition", {}).setdefault(condition["test"], {})[condition["variable"]] = _few(
            condition["values"], False
        )
    return made


def _principals(asked: list[Mapping[str, Any]]) -> Any:
    if len(asked) == 1 and asked[0]["type"] == "*" and asked[0]["identifiers"] == ["*"]:
        return "*"
    found: dict[str, list[str]] = {}
    for one in asked:
        found.setdefault(one["type"], []).extend(one["identifiers"])
    return {type_: _few(names) for type_, names in found.items()}


def _few(values: list[str], ordered: bool = True) -> Any:
    values = sorted(values, reverse=True) if ordered else list(values)
    return values[0] if len(values) == 1 else values


INVOKES: dict[str, Callable[[Aws, Props], dict[str, Any]]] = {
    "aws:index/getCallerIdentity:getCallerIdentity": _identity,
    "aws:index/getRegion:getRegion": _region,
    "aws:index/getPartition:getPartition": _partition,
    "aws:iam/getPolicyDocument:getPolicyDocument": document,
}
