"""The registry on AWS: records in the bucket, decisions on the event bus, and a mirror in SageMaker where one is kept."""

from __future__ import annotations

from collections.abc import Callable

from ekiben import runtime
from ekiben.aws.events import publish
from ekiben.aws.facts import RegistryFacts, facts_of
from ekiben.aws.mirror import Mirror
from ekiben.aws.storage import open_storage
from ekiben.errors import ProviderError, SpecError, Unavailable
from ekiben.records import Decision, ModelVersion, Part, Platform
from ekiben.registry import ObjectRegistry

__all__ = ["Registry"]


class Registry(runtime.Registry):
    """`ObjectRegistry` in the lake's bucket. What it has recorded holds, also when the mirror cannot be told of it."""

    def __init__(self, part: Part, platform: Platform) -> None:
        super().__init__(part, platform)
        facts = facts_of(part, RegistryFacts)
        lake, found, name = facts.uri.rpartition("/registry/")
        if not found:
            raise SpecError(f"The platform's registry {part.name!r} has no URI that ends in /registry/NAME.")
        self._objects = ObjectRegistry(
            open_storage(lake, facts.region),
            f"registry/{name}",
            provider="aws",
            source=part.name,
            publish=lambda event: publish(event, platform),
            require_approval=facts.require_approval,
        )
        self._groups = facts.model_groups
        self._mirror = Mirror(facts, part, platform) if facts.model_groups else None

    def register(self, version: ModelVersion) -> ModelVersion:
        return self._shown(self._objects.register(version))

    def version(self, ref: str) -> ModelVersion:
        return self._objects.version(ref)

    def versions(self, model: str = "") -> list[ModelVersion]:
        return self._objects.versions(model)

    def decide(self, ref: str, state: str, *, who: str, why: str) -> ModelVersion:
        return self._shown(self._objects.decide(ref, state, who=who, why=why), who=who, why=why)

    def alias(self, ref: str, alias: str, *, who: str, why: str) -> ModelVersion:
        return self._objects.alias(ref, alias, who=who, why=why)

    def audit(self, model: str) -> list[Decision]:
        return self._objects.audit(model)

    def adopt(self, model: str = "") -> list[ModelVersion]:
        """Take over what was approved or rejected in SageMaker, and show there what is not yet shown. Returns what it decided.

        Of one model, or of all; repeating is safe. What the registry cannot follow (an archived version) stays as it is.
        """
        if self._mirror is None:
            return []
        decided = []
        for version in self.versions(model):
            there = None if version.state == "archived" else self._mirror.decided_there(version)
            if there is None:
                self._shown(version)
                continue
            state, who, why = there
            decided.append(self.decide(version.id, state, who=who, why=why or "decided in SageMaker"))
        return decided

    def model_of(self, group: str) -> str:
        """The model that a model package group of SageMaker is for; empty for one that is not of this registry."""
        start = f"{self._groups}-"
        return group.removeprefix(start) if self._groups and group.startswith(start) else ""

    def _shown(self, version: ModelVersion, *, who: str = "", why: str = "") -> ModelVersion:
        if self._mirror is not None:
            _told(lambda mirror=self._mirror: mirror.show(version, who=who, why=why))  # type: ignore[misc]
        return version


def _told(show: Callable[[], None]) -> None:
    try:
        show()
    except ProviderError as error:
        why = f"the registry has recorded it, but {error.why}"
        kind = type(error) if not error.retryable else Unavailable
        remedy = f"{error.remedy}; then repeat" if error.remedy else "Repeat"
        raise kind("aws", error.operation, why, f"{remedy} the same call, which shows it") from error
