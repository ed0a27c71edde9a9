"""Registering a run's model, releasing and copying it: over the contracts of `ekiben.runtime` alone, standard library only."""

from ekiben.release.check import smoke
from ekiben.release.registration import register
from ekiben.release.rollout import release, rollback
from ekiben.release.transfer import between, copy

__all__ = ["between", "copy", "register", "release", "rollback", "smoke"]
