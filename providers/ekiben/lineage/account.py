"""All that is known of how a version came to be, as one JSON object: what `ekiben lineage` prints and exports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ekiben.errors import IntegrityError, ProviderError, SpecError
from ekiben.packing import archive
from ekiben.records import ModelVersion
from ekiben.runtime import Registry, Runtime

__all__ = ["account", "code_of", "lock_of", "part"]

LOCK = "requirements.txt"


def account(runtime: Runtime, registry: Registry, ref: str) -> dict[str, Any]:
    """The account of the version that `ref` names ("model:3", "model@alias"):

    {"version", "data": {input: {"uri", "sha256", "rows", "files"}}, "code", "environment", "job", "run", "evaluation":
    {"metrics", "slices"}, "signature", "bento": {"digest", "uri", "template"}, "decisions": [...], "missing": [what could not be
    read, and why]}. What the run did not record is empty. Raises NotFound for a version that is not there.
    """
    version = registry.version(ref)
    lineage, missing = version.lineage, list[str]()
    kept = {"inputs", "code", "environment", "job", "bento", "run", "copied"}
    run = {
        "id": version.run_id,
        **{name: lineage[name] for name in lineage if name not in kept},
        **part(lineage, "run"),
    }
    return {
        "version": {
            "id": version.id, "state": version.state, "aliases": version.aliases, "key": version.key,
            "created_at": version.created_at, "created_by": version.created_by, "copied": lineage.get("copied", []),
        },
        "data": part(lineage, "inputs"),
        "code": part(lineage, "code"),
        "environment": part(lineage, "environment"),
        "job": part(lineage, "job"),
        "run": run,
        "evaluation": {"metrics": version.metrics, "slices": _slices(runtime, run, missing)},
        "signature": version.signature,
        "bento": {"digest": version.digest, "uri": version.bento_uri, "template": part(lineage, "bento")},
        "decisions": _decisions(registry, version),
        "missing": missing,
    }  # fmt: skip


def part(lineage: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A part of what a run recorded; empty where it is absent or of another shape, as only a run by others could leave it."""
    value = lineage.get(name)
    return dict(value) if isinstance(value, dict) else {}


def code_of(runtime: Runtime, code: Mapping[str, Any], folder: Path) -> Path:
    """The code that a run was, unpacked below `folder`. Raises IntegrityError when its bytes are not those recorded, NotFound."""
    uri, digest = str(code.get("uri", "")), str(code.get("sha256", ""))
    if not uri or not digest:
        raise SpecError("The run did not record its code.")
    tar = folder / f"{digest}.tar"
    store = runtime.storage_of(uri)
    store.download(store.key(uri), tar)
    try:
        return archive.unpack(tar, digest, folder / digest)
    except IntegrityError as error:
        raise IntegrityError("ekiben", f"use the code {uri}", error.why, "Restore it from a copy") from error
    finally:
        tar.unlink(missing_ok=True)


def lock_of(code: Path, recorded: str = "") -> str:
    """The lock in a run's code, empty when there is none. Raises IntegrityError when it is not the one that was `recorded`."""
    path = code / LOCK
    if not path.is_file():
        return ""
    if recorded and archive.sha256(path) != recorded:
        raise IntegrityError("ekiben", f"use the lock {LOCK} of the run", "it is not the one that the run recorded")
    return path.read_text(encoding="utf-8")


def _decisions(registry: Registry, version: ModelVersion) -> list[dict[str, Any]]:
    return [one.to_dict() for one in registry.audit(version.model) if one.version == version.version]


def _slices(runtime: Runtime, run: Mapping[str, Any], missing: list[str]) -> list[dict[str, Any]]:
    """The table `slices` of the metrics.json that the run wrote; none where it wrote none."""
    uri = str(run.get("output_uri") or "")
    if not uri:
        return []
    where = f"{uri.rstrip('/')}/metrics.json"
    try:
        store = runtime.storage_of(where)
        told = json.loads(store.get(store.key(where)), parse_constant=lambda constant: None)
    except (ProviderError, SpecError, ValueError) as error:
        missing.append(f"slices: {error}")
        return []
    found = told.get("slices") if isinstance(told, dict) else None
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
