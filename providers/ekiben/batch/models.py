"""Which model a name on the command line means, and its bento made ready to run on this machine."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from ekiben.errors import IntegrityError, NotFound, SpecError
from ekiben.records import ModelVersion, Revision
from ekiben.runtime import Runtime
from ekiben.station.bentos import Plan, prepare

__all__ = ["Model", "chosen", "cores", "made_ready"]


class Model(NamedTuple):
    """A model version: `ref` ("model:3"), its bento by digest and URI, and its signature."""

    ref: str
    digest: str
    uri: str
    signature: dict[str, Any]


def chosen(runtime: Runtime, name: str, *, revision: str = "", registry: str = "") -> Model:
    """The model of an endpoint (of its revision with the most weight, or the one named), or a version: MODEL:VERSION, MODEL@ALIAS.

    Raises NotFound; SpecError when the endpoint has no traffic; IntegrityError when endpoint and registry disagree.
    """
    if name not in runtime.names("endpoint"):
        if ":" not in name and "@" not in name:
            there = ", ".join(runtime.names("endpoint")) or "none"
            raise NotFound(
                "ekiben", f"invoke {name!r}", f"the platform has no such endpoint; it has: {there}",
                "Name one of them, or a model's version: MODEL:3 or MODEL@ALIAS",
            )  # fmt: skip
        if revision:
            raise SpecError("--revision is of an endpoint; a model's version is one already.")
        return _model(runtime.registry(registry).version(name))
    found = _revision(name, runtime.endpoint(name).revisions(), revision)
    version = runtime.registry(registry).version(found.version)
    if version.digest != found.digest:
        raise IntegrityError(
            "ekiben", f"invoke {name!r}",
            f"its revision {found.id} has the digest {found.digest[:12]}, and {version.id} in the registry {version.digest[:12]}",
            "Name the registry that it came from with --registry",
        )  # fmt: skip
    return _model(version)


def made_ready(model: Model) -> Plan:
    """The bento, fetched and verified before anything of it is loaded, with its own Python. Raises IntegrityError, ModelFailed."""
    from ekiben.packing.source import cache_dir

    return prepare(model.uri, model.digest, cache_dir() / "bentos" / model.digest)


def _model(version: ModelVersion) -> Model:
    return Model(version.id, version.digest, version.bento_uri, version.signature)


def _revision(endpoint: str, there: list[Revision], wanted: str) -> Revision:
    if wanted:
        for found in there:
            if wanted in (found.id, found.tag):
                return found
        names = ", ".join(found.id for found in there) or "none"
        raise NotFound("ekiben", f"invoke {endpoint!r}", f"it has no revision {wanted!r}; it has: {names}")
    ready = [found for found in there if found.weight > 0]
    if not ready:
        raise SpecError(
            f"The endpoint {endpoint!r} has no revision with traffic. Release a model, or name one: --revision."
        )
    return max(ready, key=lambda found: found.weight)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
