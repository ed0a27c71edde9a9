"""What is the same of revisions on every provider: their ids, their tags, the rules of weights. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ekiben.errors import NotFound, SpecError, Unsupported
from ekiben.records import ModelVersion

__all__ = ["REVISION", "check_tag", "check_weights", "revision_id", "whole"]

TAG = re.compile(r"[a-z](?:[a-z0-9-]{0,30}[a-z0-9])?", re.ASCII)
DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
# What `revision_id` makes.
REVISION = re.compile(r"v\d+-[0-9a-f]{8}", re.ASCII)
WEIGHT_ERROR = 1e-6


def revision_id(version: ModelVersion) -> str:
    """The id of a version's revision: the same version has the same one on every endpoint. Raises SpecError for a bad digest."""
    if not DIGEST.fullmatch(version.digest):
        raise SpecError(f"The digest {version.digest!r} of {version.id} is no SHA-256 in hex.")
    return f"v{version.version}-{version.digest[:8]}"


def check_tag(tag: str) -> str:
    """The tag, when a revision may have it. Raises SpecError."""
    if not TAG.fullmatch(tag):
        raise SpecError(
            f"The tag {tag!r} will not do: use up to 32 of a-z, 0-9 and dashes, a letter first, no dash last."
        )
    return tag


def check_weights(provider: str, endpoint: str, weights: Mapping[str, Any], states: Mapping[str, str]) -> None:
    """Can the traffic be shifted so? `states`: revision id -> state, of all that there are. Raises SpecError, NotFound."""
    for id, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 100:
            raise SpecError(f"The weight {weight!r} of {id} is not a percentage from 0 to 100.")
    total = sum(weights.values())
    if abs(total - 100) > WEIGHT_ERROR:
        raise SpecError(f"The weights sum to {total:g}, not to 100.")
    for id, weight in weights.items():
        if id not in states:
            there = ", ".join(states) or "none"
            raise NotFound(provider, f"shift traffic of {endpoint!r} to {id!r}", f"there is no such revision ({there})")
        if weight > 0 and states[id] != "ready":
            raise SpecError(f"The revision {id} of {endpoint!r} is {states[id]}, not ready: it cannot take traffic.")


def whole(endpoint: str, weights: Mapping[str, float], why: str) -> str:
    """The revision with all traffic, where a service gives it to one alone; `why` says so. Raises Unsupported for more than one."""
    given = [id for id, weight in weights.items() if weight]
    if len(given) == 1:
        return given[0]
    raise Unsupported(
        f"Endpoint {endpoint!r}: {why}, so its traffic cannot be split between {', '.join(given)}. Give one of them 100 %, or have "
        "the endpoint on a service that splits traffic."
    )
