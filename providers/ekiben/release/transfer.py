"""Copying a version to another registry of the platform, such as another provider's: the same digest, the same record.

What travels is the bento, verified at both ends, and the record: key, run, metrics, signature, sample and lineage. The version gets
the next number there, and its lineage says where it comes from. Its state goes with it, as a decision of who copies that quotes the
one it follows. Aliases stay: they say what serves where. Each step can be repeated; a copy that was killed is finished by another.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ekiben.catalog import MAX_TEXT
from ekiben.errors import AlreadyExists, IntegrityError, NotFound, SpecError
from ekiben.packing.archive import sha256
from ekiben.records import ModelVersion
from ekiben.runtime import Registry, Runtime, Storage

__all__ = ["between", "copy"]

OnStep = Callable[[str, str], object]


def between(runtime: Runtime, to: str, registry: str = "") -> tuple[Registry, Registry]:
    """The registry to copy from, and the one to copy to. Raises SpecError where they cannot be told, NotFound for `registry`.

    to: a registry's name, or a provider that has one. registry: where from, by default the only other one that there is.
    """
    names = runtime.names("registry")
    providers = {name: runtime.platform.parts[name].provider for name in names}
    there = ", ".join(f"{name} ({providers[name]})" for name in names) or "none"
    targets = [to] if to in names else [name for name in names if providers[name] == to]
    if len(targets) != 1:
        why = "there are several there" if targets else "there is none"
        raise SpecError(f"No registry to copy to is told by {to!r}: {why}. Name one of the platform's: {there}.")
    sources = [registry] if registry else [name for name in names if name != targets[0]]
    if sources == targets or len(sources) != 1:
        raise SpecError(
            f"No registry to copy to {targets[0]!r} from is told by {registry!r}. Name another one of the platform's: {there}."
        )
    return runtime.registry(sources[0]), runtime.registry(targets[0])


def copy(
    runtime: Runtime,
    ref: str,
    *,
    to: str,
    registry: str = "",
    any_state: bool = False,
    who: str,
    why: str = "",
    on_step: OnStep = lambda step, detail: None,
) -> ModelVersion:
    """Copy the version `ref` ("model:3" or "model@alias") as `between` understands `to` and `registry`; returns the one there.

    Repeating is safe, and changes no decision that was made there. `any_state`: also one that is not approved. `on_step` is told
    each step and a detail. Raises SpecError for one that may not be copied, IntegrityError where a bento is not what its digest
    says, AlreadyExists where another version is there under the same key. Nothing is recorded then.
    """
    if not who.strip():
        raise SpecError("`who` is empty: the audit says who copied what.")
    source, target = between(runtime, to, registry)
    version = source.version(ref)
    _check(version, target, any_state)
    for one in target.versions(version.model):
        _same(one, version, target)
    store = runtime.storage_of(str(target.part.facts.get("uri", "")), target.part.provider)
    uri = _carry(runtime.storage_of(version.bento_uri), store, version, on_step)
    on_step("register", f"{version.model} in {target.part.name}")
    made = target.register(
        replace(version, bento_uri=uri, created_at="", created_by=who, lineage=_lineage(version, source))
    )
    _same(made, version, target)
    if version.state == "pending" or made.state not in ("pending", version.state):
        return made
    on_step("decide", f"{made.id} is {version.state}")
    return target.decide(made.id, version.state, who=who, why=_reason(version, source, why))


def _check(version: ModelVersion, target: Registry, any_state: bool) -> None:
    if version.state == "approved":
        return
    if not any_state:
        raise SpecError(
            f"{version.id} is {version.state}, and only an approved version is copied unless any state is asked for "
            "(`ekiben copy` takes --any-state)."
        )
    if not target.part.facts.get("require_approval", True):
        raise SpecError(
            f"{version.id} is {version.state}, and the registry {target.part.name!r} approves all that is registered: there it "
            "would be approved. Approve it first, or let that registry require approval."
        )


def _same(there: ModelVersion, version: ModelVersion, target: Registry) -> None:
    """Raises AlreadyExists when what is there has the version's key, and is another one."""
    if there.key == version.key and there.digest != version.digest:
        raise AlreadyExists(
            target.part.provider, f"copy {version.id} to {target.part.name!r}",
            f"its key {version.key!r} is that of {there.id} there, which has the digest {there.digest} and not {version.digest}",
            "They are two models: register this one under another key",
        )  # fmt: skip


def _carry(source: Storage, target: Storage, version: ModelVersion, on_step: OnStep) -> str:
    """Have the bento in `target`, and read it there again; returns its URI."""
    key = f"bentos/{version.digest}.tar"
    uri = target.uri(key)
    with tempfile.TemporaryDirectory(prefix="ekiben-copy-") as private:
        path = Path(private) / "bento.tar"
        try:
            target.head(key)
        except NotFound:
            on_step("read", version.bento_uri)
            source.download(source.key(version.bento_uri), path)
            _verify(path, version, source.part.provider, version.bento_uri, "Restore it from a copy")
            on_step("write", uri)
            # By parts, as no conditional write goes. Its name is its digest: who writes it at the same time writes the same.
            target.put(key, path)
        on_step("verify", uri)
        target.download(key, path)
        _verify(path, version, target.part.provider, uri, "Delete it, and copy again")
    return uri


def _verify(path: Path, version: ModelVersion, provider: str, uri: str, remedy: str) -> None:
    if (found := sha256(path)) != version.digest:
        why = f"{uri} has the digest {found}, and {version.digest} is registered"
        raise IntegrityError(provider, f"copy {version.id}", why, remedy)


def _lineage(version: ModelVersion, source: Registry) -> dict[str, object]:
    """The version's, and what a copy's own record does not say. One that was copied before has come several ways."""
    origin = {
        "registry": source.part.name, "provider": source.part.provider, "version": version.id,
        "created_at": version.created_at, "created_by": version.created_by,
    }  # fmt: skip
    return {**version.lineage, "copied": [*version.lineage.get("copied", []), origin]}


def _reason(version: ModelVersion, source: Registry, why: str) -> str:
    """Why it has its state in the registry that it comes from, in the words of who decided it."""
    decisions = [
        one for one in source.audit(version.model) if one.version == version.version and one.after == version.state
        and one.what in ("registered", version.state)
    ]  # fmt: skip
    by = f" by {decisions[-1].who}" + (f": {decisions[-1].why}" if decisions[-1].why else "") if decisions else ""
    told = f"copied from {source.part.name} ({source.part.provider}), where {version.id} is {version.state}{by}"
    return (f"{why}; {told}" if why else told)[:MAX_TEXT]
