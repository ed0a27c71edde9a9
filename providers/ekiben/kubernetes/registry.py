"""The registry on Kubernetes: records in the store, decisions as events, and a mirror in MLflow where the stack names a server."""

from __future__ import annotations

import logging

from ekiben.errors import ProviderError, SpecError
from ekiben.kubernetes.client import Cluster
from ekiben.kubernetes.events import publish
from ekiben.kubernetes.facts import RegistryFacts, facts_of
from ekiben.kubernetes.mirror import Mirror
from ekiben.kubernetes.mlflow import Server
from ekiben.kubernetes.storage import open_storage
from ekiben.mirrored import Mirrored
from ekiben.records import Part, Platform
from ekiben.registry import ObjectRegistry

__all__ = ["Registry"]

log = logging.getLogger("ekiben.kubernetes")
# What this process has told already.
_told: set[str] = set()


class Registry(Mirrored):
    """`ObjectRegistry` in a bucket. A mirror that cannot be told of what it has recorded fails nothing: a warning says so once."""

    def __init__(self, part: Part, platform: Platform) -> None:
        facts = facts_of(part, RegistryFacts)
        lake, found, name = facts.uri.rpartition("/registry/")
        if not found:
            raise SpecError(f"The platform's registry {part.name!r} has no URI that ends in /registry/NAME.")
        own = Platform(project=platform.project, stack=platform.stack, parts={part.name: part})
        objects = ObjectRegistry(
            open_storage(lake, facts.namespace, facts.s3, facts.context),
            f"registry/{name}",
            provider="kubernetes",
            source=part.name,
            publish=lambda event: publish(event, own),
            require_approval=facts.require_approval,
        )
        server = Server(Cluster(facts.namespace, facts.context), facts.mlflow)
        self._mlflow = Mirror(server) if facts.mlflow.url else None
        super().__init__(part, platform, objects, self._mlflow, _missed)

    @property
    def mirrored(self) -> bool:
        """Does the platform name a server?"""
        return self._mlflow is not None

    def decided(self) -> set[str]:
        """The models of which somebody has decided a version in MLflow; `adopt` takes that over."""
        return self._mlflow.decided() if self._mlflow else set()


def _missed(error: ProviderError) -> None:
    if error.why not in _told:
        _told.add(error.why)
        log.warning(
            "%s The registry has recorded it all the same. What MLflow lacks is shown when the same call is repeated, or by "
            "`Registry.adopt`; this is said once.",
            error,
        )
