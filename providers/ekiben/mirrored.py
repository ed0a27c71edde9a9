"""A registry whose versions are shown in another one, too: the provider's own, or an MLflow server. The records stay the truth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ekiben import runtime
from ekiben.errors import ProviderError, SpecError
from ekiben.records import Decision, ModelVersion, Part, Platform
from ekiben.registry import ObjectRegistry

__all__ = ["Mirror", "Mirrored"]


class Mirror(Protocol):
    """Another registry. title: what people call it. aliases: whether it knows any."""

    title: str
    aliases: bool

    def show(self, version: ModelVersion, *, who: str = "", why: str = "") -> None:
        """Make the version there where it is not, and give it its state and its aliases. Repeating is safe."""

    def decided_there(self, version: ModelVersion) -> tuple[str, str, str] | None:
        """What somebody decided there: (state, who, why); None where nobody did."""


class Mirrored(runtime.Registry):
    """`objects`, shown in `mirror` where there is one. missed: is given what went wrong there, after the registry has recorded."""

    def __init__(
        self,
        part: Part,
        platform: Platform,
        objects: ObjectRegistry,
        mirror: Mirror | None,
        missed: Callable[[ProviderError], None],
    ) -> None:
        super().__init__(part, platform)
        self._objects, self._mirror, self._missed = objects, mirror, missed

    def register(self, version: ModelVersion) -> ModelVersion:
        return self._shown(self._objects.register(version))

    def version(self, ref: str) -> ModelVersion:
        return self._objects.version(ref)

    def versions(self, model: str = "") -> list[ModelVersion]:
        return self._objects.versions(model)

    def decide(self, ref: str, state: str, *, who: str, why: str) -> ModelVersion:
        return self._shown(self._objects.decide(ref, state, who=who, why=why), who=who, why=why)

    def alias(self, ref: str, alias: str, *, who: str, why: str) -> ModelVersion:
        version = self._objects.alias(ref, alias, who=who, why=why)
        return self._shown(version) if self._mirror is not None and self._mirror.aliases else version

    def audit(self, model: str) -> list[Decision]:
        return self._objects.audit(model)

    def adopt(self, model: str = "") -> list[ModelVersion]:
        """Take over what was approved or rejected in the mirror, and show there what is not yet shown. Returns what it decided.

        Of one model, or of all; repeating is safe. What is archived stays so. Raises SpecError, when all others are taken over, for
        what the registry cannot follow, such as a rejection of what an alias names.
        """
        if self._mirror is None:
            return []
        decided, refused = [], []
        for version in self.versions(model):
            there = None if version.state == "archived" else self._mirror.decided_there(version)
            if there is None:
                self._shown(version)
                continue
            state, who, why = there
            try:
                decided.append(self.decide(version.id, state, who=who, why=why or f"decided in {self._mirror.title}"))
            except SpecError as error:
                refused.append(str(error))
        if refused:
            raise SpecError(f"What was decided in {self._mirror.title} cannot be taken over: {' '.join(refused)}")
        return decided

    def _shown(self, version: ModelVersion, *, who: str = "", why: str = "") -> ModelVersion:
        if self._mirror is not None:
            try:
                self._mirror.show(version, who=who, why=why)
            except ProviderError as error:
                self._missed(error)
        return version
