"""What a cluster does not do by itself: a component that is asked for where it may be left out makes nothing. See SUPPORT."""

from __future__ import annotations

from ekiben import components
from ekiben.kubernetes import SUPPORT
from ekiben.kubernetes.components.program import Kubernetes

__all__ = ["Budget", "Monitor"]


class Monitor(Kubernetes, components.Monitor):
    """Nothing."""

    support = SUPPORT


class Budget(Kubernetes, components.Budget):
    """Nothing."""

    support = SUPPORT
