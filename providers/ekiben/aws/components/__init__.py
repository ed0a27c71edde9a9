"""The deploy face of AWS: components over pulumi-aws."""

from __future__ import annotations

from ekiben.aws.components.budget import Budget
from ekiben.aws.components.endpoint import Endpoint
from ekiben.aws.components.function import Function
from ekiben.aws.components.monitor import Monitor
from ekiben.aws.components.program import exported
from ekiben.aws.components.registry import Registry
from ekiben.aws.components.storage import Storage
from ekiben.aws.components.training import Training

__all__ = ["Budget", "Endpoint", "Function", "Monitor", "Registry", "Storage", "Training", "exported"]
