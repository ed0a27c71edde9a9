"""A Kubernetes of one node on this machine, real in all its parts."""

from __future__ import annotations

from ekiben.emulators.kubernetes.launch import Cluster, ensure, found, running, stop
from ekiben.emulators.kubernetes.machine import why_not

__all__ = ["Cluster", "ensure", "found", "running", "stop", "why_not"]
