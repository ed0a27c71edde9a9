"""The run face of `aws`, on boto3 and obstore."""

from __future__ import annotations

from collections.abc import Mapping

from ekiben import runtime
from ekiben.aws import endpoint, express, serverless, variants
from ekiben.aws.events import publish
from ekiben.aws.function import Function
from ekiben.aws.registry import Registry
from ekiben.aws.storage import Storage
from ekiben.aws.training import Training
from ekiben.records import Part, Platform

__all__ = ["Endpoint", "Function", "Registry", "Storage", "Training", "publish"]


# A fact that an endpoint on one service has and no other -> its kind.
_ENDPOINTS: Mapping[str, type[runtime.Endpoint]] = {
    "function": endpoint.Endpoint,
    "instance_type": variants.Endpoint,
    "max_concurrency": serverless.Endpoint,
    "cluster_arn": express.Endpoint,
}


def Endpoint(part: Part, platform: Platform) -> runtime.Endpoint:
    """An endpoint on one of the services in `ekiben.aws.backends`: its facts say which."""
    kind = next((kind for fact, kind in _ENDPOINTS.items() if fact in part.facts), endpoint.Endpoint)
    return kind(part, platform)
