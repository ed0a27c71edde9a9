"""The network of a stack's own that its jobs and endpoints run in: `ekiben:network` of the stack's config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi

from ekiben.aws.components.policies import Statement, allow
from ekiben.errors import SpecError

__all__ = ["Network", "interface_statements", "network"]


@dataclass(frozen=True, kw_only=True)
class Network:
    """subnet_ids, security_group_ids: where jobs and endpoints have their network interfaces; none is AWS's own network.

    isolated: training jobs reach nothing but what SageMaker brings and takes. An endpoint cannot be: it fetches its bento.
    """

    subnet_ids: Sequence[str] = ()
    security_group_ids: Sequence[str] = ()
    isolated: bool = False

    @property
    def private(self) -> bool:
        return bool(self.subnet_ids)


def network() -> Network:
    """What the stack's config says. Raises SpecError for what is no network."""
    try:
        told: Any = pulumi.Config("ekiben").get_object("network")
    except pulumi.ConfigTypeError as error:
        raise SpecError(f"The stack's config ekiben:network is no JSON object: {error}.") from error
    if told is None:
        return Network()
    known = {"subnet_ids": list, "security_group_ids": list, "isolated": bool}
    if not isinstance(told, dict) or any(
        key not in known or not isinstance(value, known[key]) for key, value in told.items()
    ):
        raise SpecError(
            f"The stack's config ekiben:network is {told!r}: it has subnet_ids and security_group_ids, lists of ids, and isolated, "
            "true or false."
        )
    if bool(told.get("subnet_ids")) != bool(told.get("security_group_ids")):
        raise SpecError(
            "The stack's config ekiben:network has subnet_ids without security_group_ids, or the other way round: set both."
        )
    return Network(**told)


def interface_statements() -> list[Statement]:
    """Have network interfaces in a network of one's own. EC2 knows no narrower resource for a part of these."""
    return [
        allow(
            [
                "ec2:CreateNetworkInterface", "ec2:CreateNetworkInterfacePermission", "ec2:DeleteNetworkInterface",
                "ec2:DeleteNetworkInterfacePermission", "ec2:DescribeDhcpOptions", "ec2:DescribeNetworkInterfaces",
                "ec2:DescribeSecurityGroups", "ec2:DescribeSubnets", "ec2:DescribeVpcs",
            ],
            ["*"],
        )
    ]  # fmt: skip
