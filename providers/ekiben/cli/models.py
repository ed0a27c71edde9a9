"""models, approve, reject, release, rollback, copy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from ekiben.cli import options, show
from ekiben.cli.platform import runtime
from ekiben.errors import SpecError

if TYPE_CHECKING:
    from ekiben.records import ModelVersion
    from ekiben.runtime import Registry, Runtime

__all__ = ["register"]

Ref = Annotated[str, typer.Argument(metavar="MODEL:N", help="The version, such as employment:3.")]
EndpointOption = Annotated[str, typer.Option("--endpoint", help="The endpoint component, where there are several.")]


def register(app: typer.Typer) -> None:
    app.command()(models)
    app.command()(approve)
    app.command()(reject)
    app.command()(release)
    app.command()(rollback)
    app.command()(copy)


def models(
    model: Annotated[
        str, typer.Argument(metavar="MODEL[:N|@ALIAS]", help="A model, or a version to show in full.")
    ] = "",
    registry: options.Registry = "",
    json: options.Json = False,
    stack: options.Stack = "",
) -> None:
    """List model versions, or show one in full.

    One in full has its metrics, its lineage, and who decided what, when and why.

    \b
    Examples:
      ekiben models
      ekiben models employment
      ekiben models employment@champion --json
    """
    used = runtime(stack)
    if ":" in model or "@" in model:
        _one(used.registry(registry), model, json)
        return
    names = [registry] if registry else used.names("registry")
    every = [(name, version) for name in names for version in used.registry(name).versions()]
    found = [(name, version) for name, version in every if model in ("", version.model)]
    if json:
        show.to_json([version for _, version in found])
        return
    several = len(names) > 1
    rows = [
        (*([name] if several else []), version.id, version.state, ", ".join(version.aliases), _metrics(version),
         show.clock(version.created_at), version.digest[:12], version.run_id)
        for name, version in found
    ]  # fmt: skip
    columns = ("version", "state", "aliases", "metrics", "created (UTC)", "digest", "run")
    others = ", ".join(sorted({version.model for _, version in every}))
    empty = "There are no versions yet. A training run that succeeds is registered."
    heads = ("registry", *columns) if several else columns
    show.table(heads, rows, f"There is no model {model!r}; there are: {others}." if others else empty)


def approve(
    ref: Ref,
    why: options.Why,
    who: options.Who = "",
    registry: options.Registry = "",
    json: options.Json = False,
    stack: options.Stack = "",
) -> None:
    """Approve a version.

    Functions that wait for the decision, such as one that releases, then start.

    \b
    Examples:
      ekiben approve employment:3 --why "better in every slice"
    """
    _decide(ref, "approved", why, who, registry, json, stack)


def reject(
    ref: Ref,
    why: options.Why,
    who: options.Who = "",
    registry: options.Registry = "",
    json: options.Json = False,
    stack: options.Stack = "",
) -> None:
    """Reject a version; it is not released.

    \b
    Examples:
      ekiben reject employment:3 --why "worse for people over 60"
    """
    _decide(ref, "rejected", why, who, registry, json, stack)


def release(
    ref: Annotated[str, typer.Argument(metavar="MODEL[:N|@ALIAS]", help="The version; else the newest approved one.")],
    why: options.Why = "released by hand",
    who: options.Who = "",
    endpoint: EndpointOption = "",
    registry: options.Registry = "",
    json: options.Json = False,
    stack: options.Stack = "",
) -> None:
    """Release an approved version to an endpoint.

    It is deployed without traffic, smoke-tested with its own sample, and then given all traffic. When the test fails,
    traffic stays as it was.

    \b
    Examples:
      ekiben release employment
      ekiben release employment:3 --endpoint employment-api --why "the March data"
    """
    from ekiben import release as releases

    used = runtime(stack)
    revision = releases.release(
        used, _version(used, ref, registry), endpoint=endpoint, registry=registry, who=options.user(who), why=why,
        on_step=_step,
    )  # fmt: skip
    if json:
        show.to_json(revision)
    else:
        show.line(f"{revision.endpoint} serves {revision.version} (revision {revision.id}).")


def rollback(
    endpoint: Annotated[
        str, typer.Argument(metavar="ENDPOINT", help="The endpoint; may be left out where there is one.")
    ] = "",
    why: options.Why = "rolled back by hand",
    who: options.Who = "",
    registry: options.Registry = "",
    json: options.Json = False,
    stack: options.Stack = "",
) -> None:
    """Give an endpoint the version it had before.

    \b
    Examples:
      ekiben rollback
      ekiben rollback employment-api --why "complaints since Tuesday"
    """
    from ekiben import release as releases

    revision = releases.rollback(
        runtime(stack), endpoint=endpoint, registry=registry, who=options.user(who), why=why, on_step=_step
    )
    if json:
        show.to_json(revision)
    else:
        show.line(f"{revision.endpoint} serves {revision.version} again (revision {revision.id}).")


def copy(
    ref: Annotated[str, typer.Argument(metavar="MODEL[:N|@ALIAS]", help="The version; else the newest approved one.")],
    to: Annotated[
        str, typer.Option("--to", metavar="PROVIDER", help="The provider, or the registry component, to copy to.")
    ],
    registry: Annotated[
        str, typer.Option("--registry", help="The registry to copy from, where there are several others.")
    ] = "",
    any_state: Annotated[
        bool, typer.Option("--any-state", help="Also a version that is not approved; its state goes with it.")
    ] = False,
    why: options.Why = "",
    who: options.Who = "",
    json: options.Json = False,
    stack: options.Stack = "",
) -> None:
    """Copy a version to the registry of another provider: the same digest, the same record.

    Its bento is verified at both ends. An approved version is approved there, too, by who copies, and the audit quotes who
    approved it here. Aliases stay here: release it there. Repeating finishes a copy that was interrupted.

    \b
    Examples:
      ekiben copy employment --to aws
      ekiben copy employment:3 --to cloud-models --why "for the shops in Europe" --json
    """
    from ekiben import release as releases

    used = runtime(stack)
    source, target = releases.between(used, to, registry)
    made = releases.copy(
        used, _version(used, ref, source.part.name), to=target.part.name, registry=source.part.name, any_state=any_state,
        who=options.user(who), why=why, on_step=_step,
    )  # fmt: skip
    if json:
        show.to_json({**made.to_dict(), "registry": target.part.name, "provider": target.part.provider})
    else:
        show.line(f"{target.part.name} ({target.part.provider}) has it as {made.id}, {made.state}.")


def _decide(ref: str, state: str, why: str, who: str, registry: str, json: bool, stack: str) -> None:
    if not why.strip():
        raise SpecError("--why is empty: the audit keeps why a version was decided on. Say it in a few words.")
    version = runtime(stack).registry(registry).decide(ref, state, who=options.user(who), why=why)
    if json:
        show.to_json(version)
    else:
        show.line(f"{version.id} is {version.state}.")


def _step(step: str, detail: str) -> None:
    show.say(f"{step}: {detail}")


def _version(used: Runtime, ref: str, registry: str) -> str:
    """`ref` itself, or the newest approved version of the model that it names."""
    if re.search("[:@]", ref):
        return ref
    found = used.registry(registry).versions(ref)
    approved = next((version for version in found if version.state == "approved"), None)
    if approved is None:
        newest = f"the newest, {found[0].id}, is {found[0].state}" if found else "it has no versions"
        raise SpecError(
            f"There is no approved version of {ref!r} to release: {newest}. See `ekiben models {ref}`"
            + (f"; approve one with: ekiben approve {found[0].id} --why REASON." if found else ".")
        )
    return approved.id


def _one(registry: Registry, ref: str, json: bool) -> None:
    version = registry.version(ref)
    audit = [decision for decision in registry.audit(version.model) if decision.version == version.version]
    if json:
        show.to_json({**version.to_dict(), "audit": audit})
        return
    show.line(f"{version.id}: {version.state}" + (f", {', '.join(version.aliases)}" if version.aliases else ""))
    show.line(f"bento: {version.bento_uri} (sha256 {version.digest})")
    show.line(f"made: {show.clock(version.created_at)} by {version.created_by}, run {version.run_id or '-'}")
    show.line()
    show.table(("metric", "value"), [(key, show.number(value)) for key, value in sorted(version.metrics.items())])
    _lineage(version)
    show.line()
    rows = [(show.clock(d.when), d.who, d.what, d.before, d.after, d.why) for d in audit]
    show.table(("when (UTC)", "who", "what", "before", "after", "why"), rows)


def _lineage(version: ModelVersion) -> None:
    from ekiben.cli.lineage import copied

    lineage = version.lineage
    for origin in lineage.get("copied", []):
        show.line(copied(origin))
    rows = [
        (name, str(data.get("rows", "")), str(data.get("sha256", ""))[:12], str(data.get("uri", "")))
        for name, data in sorted((lineage.get("inputs") or {}).items())
    ]
    if rows:
        show.line()
        show.table(("input", "rows", "sha256", "uri"), rows)
    if code := lineage.get("code"):
        dirty = ", with uncommitted changes" if code.get("dirty") else ""
        show.line(f"code: {str(code.get('sha256', ''))[:12]}, commit {str(code.get('commit') or '-')[:12]}{dirty}")


def _metrics(version: ModelVersion) -> str:
    return ", ".join(f"{key} {show.number(value)}" for key, value in sorted(version.metrics.items())[:3])
