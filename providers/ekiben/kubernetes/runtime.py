"""The run face of `kubernetes`, on lightkube and obstore; in a pod, on obstore alone."""

from __future__ import annotations

from ekiben.kubernetes.endpoint import Endpoint
from ekiben.kubernetes.events import publish
from ekiben.kubernetes.function import Function
from ekiben.kubernetes.registry import Registry
from ekiben.kubernetes.storage import Storage
from ekiben.kubernetes.training import Training

__all__ = ["Endpoint", "Function", "Registry", "Storage", "Training", "publish"]
