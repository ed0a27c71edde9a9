"""The registry on Kubernetes: records in the store, decisions as events."""

from __future__ import annotations

from ekiben import runtime
from ekiben.errors import SpecError
from ekiben.kubernetes.events import publish
from ekiben.kubernetes.facts import RegistryFacts, facts_of
from ekiben.kubernetes.storage import open_storage
from ekiben.records import Decision, ModelVersion, Part, Platform
from ekiben.registry import ObjectRegistry

__all__ = ["Registry"]


class Registry(runtime.Registry):
    """`ObjectRegistry` in a bucket. See `runtime.Registry`."""

    def __init__(self, part: Part, platform: Platform) -> None:
        super().__init__(part, platform)
        facts = facts_of(part, RegistryFacts)
        lake, found, name = facts.uri.rpartition("/registry/")
        if not found:
            raise SpecError(f"The platform's registry {part.name!r} has no URI that ends in /registry/NAME.")
        own = Platform(project=platform.project, stack=platform.stack, parts={part.name: part})
        self._objects = ObjectRegistry(
            open_storage(lake, facts.namespace, facts.s3, facts.context),
            f"registry/{name}",
            provider="kubernetes",
            source=part.name,
            publish=lambda event: publish(event, own),
            require_approval=facts.require_approval,
        )

    def register(self, version: ModelVersion) -> ModelVersion:
        return self._objects.register(version)

    def version(self, ref: str) -> ModelVersion:
        return self._objects.version(ref)

    def versions(self, model: str = "") -> list[ModelVersion]:
        return self._objects.versions(model)

    def decide(self, ref: str, state: str, *, who: str, why: str) -> ModelVersion:
        return self._objects.decide(ref, state, who=who, why=why)

    def alias(self, ref: str, alias: str, *, who: str, why: str) -> ModelVersion:
        return self._objects.alias(ref, alias, who=who, why=why)

    def audit(self, model: str) -> list[Decision]:
        return self._objects.audit(model)
