"""The run face of `aws`, on boto3 and obstore."""

from __future__ import annotations

from ekiben.aws.endpoint import Endpoint
from ekiben.aws.events import publish
from ekiben.aws.function import Function
from ekiben.aws.registry import Registry
from ekiben.aws.storage import Storage
from ekiben.aws.training import Training

__all__ = ["Endpoint", "Function", "Registry", "Storage", "Training", "publish"]
