"""The table of resource types."""

from __future__ import annotations

from ekiben.emulators.aws.plugin import (
    builds,
    clusters,
    functions,
    iam,
    keys,
    messages,
    models,
    objects,
    s3,
    schedules,
    watch,
)
from ekiben.emulators.aws.plugin.kind import Kind

__all__ = ["KINDS"]

KINDS: dict[str, Kind] = {
    kind.type: kind
    for part in (builds, clusters, functions, iam, keys, messages, models, objects, s3, schedules, watch)
    for kind in part.KINDS
}
