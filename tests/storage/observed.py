"""A registry whose events are seen, and what must be true of it after whatever was done to it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ekiben.records import Event, ModelVersion
from ekiben.registry import ObjectRegistry
from ekiben.storage import Storage


def version(key: str, model: str = "tiny", **given: Any) -> ModelVersion:
    fields = {
        "digest": "0" * 64,
        "bento_uri": "memory://nowhere",
        "created_at": "2026-01-01T00:00:00Z",
        "created_by": "zoë",
    }
    return ModelVersion(model=model, version=99, key=key, **{**fields, **given})


class Registry(ObjectRegistry):
    """With the events that it has published."""

    def __init__(self, storage: Storage, prefix: str = "registry/models", *, require_approval: bool = True) -> None:
        self.events: list[Event] = []
        super().__init__(
            storage,
            prefix,
            provider="local",
            source="models",
            publish=self.events.append,
            require_approval=require_approval,
        )


def check(registry: ObjectRegistry, keys: list[str]) -> None:
    """Nothing is lost, nothing is there twice, and the audit tells it."""
    versions = registry.versions("tiny")
    assert [v.version for v in versions] == list(range(len(keys), 0, -1))
    assert sorted(v.key for v in versions) == sorted(keys)
    audit = registry.audit("tiny")
    assert [d.seq for d in audit] == list(range(1, len(audit) + 1))
    assert Counter(d.version for d in audit if d.what == "registered") == Counter(v.version for v in versions)
