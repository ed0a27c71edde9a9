"""What endpoints on all services have: a name of their own, what is logged and measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pulumi

from ekiben.aws.components.policies import Asked, Known, Statement, allow
from ekiben.aws.jobs import scope_of

if TYPE_CHECKING:
    from ekiben.aws.components.endpoint import Endpoint
    from ekiben.aws.components.storage import Storage

__all__ = ["Made", "log_statements", "measure_statements", "own_name"]

# Facts beside those that all have, and what whoever uses the endpoint has to be allowed on the service.
Made = tuple[dict[str, Any], Asked]


def own_name(endpoint: Endpoint, storage: Storage) -> Known:
    """What a service calls what deployments make: no other stack's name, nor that of the same one made anew.

    Logs and metrics begin at nothing with it. 33 characters at most.
    """
    name, project, stack = endpoint.name, pulumi.get_project(), pulumi.get_stack()
    made: pulumi.Output[str] = storage.uri.apply(lambda uri: f"{name}-{scope_of(project, stack, name, uri)}")
    return Known(made, f"{name}-{scope_of(project, stack, name, '')}")


def log_statements(log_arn: str) -> list[Statement]:
    """Log into one group, which is there."""
    return [allow(["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"], [f"{log_arn}:*"])]


def measure_statements() -> list[Statement]:
    """Read metrics, which have no ARNs."""
    return [allow(["cloudwatch:GetMetricData"], ["*"])]
