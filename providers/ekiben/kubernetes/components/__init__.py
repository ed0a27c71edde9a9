"""The deploy face of Kubernetes: components over pulumi-kubernetes."""

from __future__ import annotations

from ekiben.kubernetes.components.endpoint import Endpoint
from ekiben.kubernetes.components.function import Function
from ekiben.kubernetes.components.monitor import Budget, Monitor
from ekiben.kubernetes.components.program import exported
from ekiben.kubernetes.components.registry import Registry
from ekiben.kubernetes.components.storage import Storage
from ekiben.kubernetes.components.training import Training

__all__ = ["Budget", "Endpoint", "Function", "Monitor", "Registry", "Storage", "Training", "exported"]
