"""The run face of `aws`, on boto3 and obstore."""

from __future__ import annotations

from ekiben import runtime
from ekiben.aws import endpoint, variants
from ekiben.aws.events import publish
from ekiben.aws.function import Function
from ekiben.aws.registry import Registry
from ekiben.aws.storage import Storage
from ekiben.aws.training import Training
from ekiben.records import Part, Platform

__all__ = ["Endpoint", "Function", "Registry", "Storage", "Training", "publish"]


def Endpoint(part: Part, platform: Platform) -> runtime.Endpoint:
    """An endpoint on Lambda, or on SageMaker's instances: its facts say which."""
    kind = variants.Endpoint if "endpoint" in part.facts else endpoint.Endpoint
    return kind(part, platform)
