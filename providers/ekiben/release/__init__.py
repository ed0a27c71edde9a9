"""Registering a run's model and releasing it, on any provider: against the contracts of `ekiben.runtime`, standard library only."""

from ekiben.release.check import smoke
from ekiben.release.registration import register
from ekiben.release.rollout import release, rollback

__all__ = ["register", "release", "rollback", "smoke"]
