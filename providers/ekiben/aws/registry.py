"""The registry on AWS: records in the bucket, decisions on the event bus, and a mirror in SageMaker where one is kept."""

from __future__ import annotations

from ekiben.aws.events import publish
from ekiben.aws.facts import RegistryFacts, facts_of
from ekiben.aws.mirror import Mirror
from ekiben.aws.storage import open_storage
from ekiben.errors import ProviderError, SpecError, Unavailable
from ekiben.mirrored import Mirrored
from ekiben.records import Part, Platform
from ekiben.registry import ObjectRegistry

__all__ = ["Registry"]


class Registry(Mirrored):
    """`ObjectRegistry` in the lake's bucket. What it has recorded holds, also when the mirror cannot be told of it: that raises."""

    def __init__(self, part: Part, platform: Platform) -> None:
        facts = facts_of(part, RegistryFacts)
        lake, found, name = facts.uri.rpartition("/registry/")
        if not found:
            raise SpecError(f"The platform's registry {part.name!r} has no URI that ends in /registry/NAME.")
        objects = ObjectRegistry(
            open_storage(lake, facts.region),
            f"registry/{name}",
            provider="aws",
            source=part.name,
            publish=lambda event: publish(event, platform),
            require_approval=facts.require_approval,
        )
        mirror = Mirror(facts, part, platform) if facts.model_groups else None
        super().__init__(part, platform, objects, mirror, _missed)
        self._groups = facts.model_groups

    def model_of(self, group: str) -> str:
        """The model that a model package group of SageMaker is for; empty for one that is not of this registry."""
        start = f"{self._groups}-"
        return group.removeprefix(start) if self._groups and group.startswith(start) else ""


def _missed(error: ProviderError) -> None:
    why = f"the registry has recorded it, but {error.why}"
    kind = type(error) if not error.retryable else Unavailable
    remedy = f"{error.remedy}; then repeat" if error.remedy else "Repeat"
    raise kind("aws", error.operation, why, f"{remedy} the same call, which shows it") from error
