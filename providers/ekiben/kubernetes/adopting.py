"""What a function's pod does for those that wait for decisions: it takes over what people decide in MLflow, which tells nobody.

What is taken over is an event then, which the function hears as any other. Where several functions wait, each of their pods looks;
a decision is taken over once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ekiben.runtime import connect

if TYPE_CHECKING:
    from ekiben.kubernetes.registry import Registry

__all__ = ["heard", "take_over"]


def heard(on: Sequence[Mapping[str, Any]]) -> Iterator[Registry]:
    """The registries of this process's platform that have a mirror and whose decisions are among the triggers `on`. Asks nobody."""
    sources = {one.get("source") or "" for one in on if one["type"] == "On" and one["event"] == "ModelDecided"}
    if not sources:
        return
    from ekiben.kubernetes.registry import Registry

    runtime = connect()
    for name in runtime.names("registry"):
        registry = runtime.registry(name)
        if isinstance(registry, Registry) and registry.mirrored and {"", name} & sources:
            yield registry


def take_over(registry: Registry) -> None:
    """What was decided since it was last looked. Raises what the store and the server say, and SpecError as `Registry.adopt`."""
    for model in sorted(registry.decided()):
        registry.adopt(model)
