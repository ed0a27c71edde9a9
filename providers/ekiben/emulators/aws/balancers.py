"""The load balancers of ECS Express, in moto's tables: one for all services of a region, and two target groups for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moto.ec2.models import ec2_backends
from moto.elbv2.models import elbv2_backends

__all__ = ["attach", "detach"]

NAME = "ecs-express-gateway-alb"


def attach(account: str, region: str, id: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The ARNs of the `balancer`, which is made for the first service, and of the `groups` of the service with this id.

    Deployments take one group and the other in turn.
    """
    backend: Any = elbv2_backends[account][region]
    network = asked.get("networkConfiguration") or {}
    subnets = network.get("subnets") or _subnets(account, region)
    arn = next((arn for arn, one in backend.load_balancers.items() if one.name == NAME), "")
    if not arn:
        tags = [{"Key": "AmazonECSManaged", "Value": "true"}]
        made = backend.create_load_balancer(NAME, network.get("securityGroups") or [], subnets, tags=tags)
        made.activate()
        arn = made.arn
    vpc = backend.load_balancers[arn].vpc_id
    shape = {"protocol": "HTTP", "port": "8080", "vpc_id": vpc, "target_type": "ip", "healthcheck_path": "/ping"}
    groups = [backend.create_target_group(f"ecs-gateway-tg-{id[:10]}-{number}", **shape) for number in range(2)]
    return {"balancer": str(arn), "groups": [str(one.arn) for one in groups]}


def detach(account: str, region: str, attached: Mapping[str, Any]) -> None:
    """Delete the target groups of a service, and the balancer with the last ones."""
    backend: Any = elbv2_backends[account][region]
    for group in attached["groups"]:
        backend.target_groups.pop(group, None)
    if not any(one.name.startswith("ecs-gateway-tg-") for one in backend.target_groups.values()):
        backend.load_balancers.pop(attached["balancer"], None)


def _subnets(account: str, region: str) -> list[str]:
    """Those of the default network."""
    tables: Any = ec2_backends[account][region].subnets
    return [str(one.id) for table in tables.values() for one in table.values() if one.default_for_az in (True, "true")][
        :2
    ]
