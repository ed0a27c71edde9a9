"""What endpoints on all services have: a name of their own, what their servers are told, what is logged and measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pulumi

from ekiben.aws.components.program import Statement, allow
from ekiben.aws.jobs import scope_of

if TYPE_CHECKING:
    from ekiben.aws.components.endpoint import Endpoint
    from ekiben.aws.components.storage import Storage

__all__ = ["Made", "log_statements", "measure_statements", "own_name", "server_variables"]

# Facts beside those that all have, and what whoever uses the endpoint has to be allowed on the service.
Made = tuple[dict[str, Any], pulumi.Output[Sequence[Statement]]]


def own_name(endpoint: Endpoint, storage: Storage) -> pulumi.Output[str]:
    """What a service calls what deployments make: no other stack's name, nor that of the same one made anew.

    Logs and metrics begin at nothing with it. 33 characters at most.
    """
    name, project, stack = endpoint.name, pulumi.get_project(), pulumi.get_stack()
    made: pulumi.Output[str] = storage.uri.apply(lambda uri: f"{name}-{scope_of(project, stack, name, uri)}")
    return made


def server_variables(endpoint: Endpoint, storage: Storage) -> dict[str, pulumi.Input[str]]:
    """What the server is told beside which bento it serves: the spec's own variables, and where predictions are logged."""
    spec = endpoint.spec
    logged: dict[str, pulumi.Input[str]] = {}
    if spec.log_predictions:
        logged = {"EKIBEN_LOG_PREDICTIONS": storage.uri, "EKIBEN_LOG_SHARE": f"{spec.log_predictions:g}"}
    limits = {
        "EKIBEN_SERVER_MAX_BODY_BYTES": str(spec.max_request_bytes),
        "EKIBEN_SERVER_DRAIN_TIMEOUT_S": str(max(1, math.ceil(spec.drain_s))),
    }
    return {**spec.env, **limits, "EKIBEN_ENDPOINT": endpoint.name, **logged}


def log_statements(log_arn: str) -> list[Statement]:
    """Log into one group, which is there."""
    return [allow(["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"], [f"{log_arn}:*"])]


def measure_statements() -> list[Statement]:
    """Read metrics, which have no ARNs."""
    return [allow(["cloudwatch:GetMetricData"], ["*"])]
