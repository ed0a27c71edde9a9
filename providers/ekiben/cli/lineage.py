"""lineage: what a version was made from, as a tree, as JSON, and for other tools."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ekiben.cli import options, show
from ekiben.cli.platform import runtime
from ekiben.errors import ProviderError, SpecError

if TYPE_CHECKING:
    from ekiben.lineage.lock import Pin
    from ekiben.runtime import Runtime

__all__ = ["Ref", "by_number", "register", "write"]

Ref = Annotated[str, typer.Argument(metavar="MODEL@VERSION", help="employment@champion, employment@3 or employment:3.")]
Branch = tuple[str, Sequence["Branch"]]


def register(app: typer.Typer) -> None:
    app.command()(lineage)


def lineage(
    ref: Ref,
    openlineage: Annotated[
        str, typer.Option("--openlineage", metavar="FILE", help="Write its run as OpenLineage events, one a line.")
    ] = "",
    cyclonedx: Annotated[
        str, typer.Option("--cyclonedx", metavar="FILE", help="Write its bill of materials, CycloneDX 1.6 in JSON.")
    ] = "",
    registry: options.Registry = "",
    json: options.Json = False,
    stack: options.Stack = "",
) -> None:
    """Show what a version was made from.

    The data by its digest, the code by its commit, the environment by its packages, the run, the evaluation, the bento,
    and who decided what, when and why. A FILE of - is stdout, instead of the tree.

    \b
    Examples:
      ekiben lineage employment@champion
      ekiben lineage employment:3 --json
      ekiben lineage employment:3 --openlineage events.ndjson --cyclonedx employment-3.cdx.json
    """
    from ekiben.lineage.account import account

    used = runtime(stack)
    told = account(used, used.registry(registry), by_number(ref))
    for problem in told["missing"]:
        show.say(f"Not read: {problem}")
    if openlineage:
        _openlineage(used, told, openlineage)
    if cyclonedx:
        _cyclonedx(used, told, cyclonedx)
    if json:
        show.to_json(told)
    elif "-" not in (openlineage, cyclonedx):
        _print(tree(told))


def by_number(ref: str) -> str:
    """`ref` as the registry has it: "model@3" is "model:3", since no alias begins with a digit."""
    model, at, rest = ref.partition("@")
    return f"{model}:{rest}" if at and rest.isdecimal() else ref


def write(path: str, text: str) -> None:
    """Write a file whole or not at all, or stdout for "-". Raises SpecError where it cannot be written."""
    if path == "-":
        show.line(text.rstrip("\n"))
        return
    target = Path(path)
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, target)
    except OSError as error:
        raise SpecError(f"{path!r} cannot be written: {error.strerror or error}.") from error
    finally:
        fresh.unlink(missing_ok=True)
    show.say(f"Written: {path}")


def tree(told: Mapping[str, Any]) -> Branch:
    """The account as a tree of lines."""
    version, run, bento = told["version"], told["run"], told["bento"]
    about = ", ".join([version["state"], *version["aliases"]])
    parts = [
        ("data", [_input(name, data) for name, data in sorted(told["data"].items())]),
        _code(told["code"]),
        _environment(told["environment"]),
        (
            f"run {run['id'] or '-'}" + (f" of {run['training']}" if run.get("training") else ""),
            [*_times(run), *_pairs("parameters", run.get("params")), *_pairs("seeds", run.get("seeds")),
             *_facts(run, "attempts", "lost_s", "by"), *_pairs("ran with", told["job"], "training", "env")],
        ),
        ("evaluation", [*_metrics(told["evaluation"]["metrics"]), *_slices(told["evaluation"]["slices"])]),
        (f"bento {bento['digest']}", [(bento["uri"], []), *((copied(one), []) for one in version["copied"])]),
        ("decisions", [(_decision(one), []) for one in told["decisions"]]),
    ]  # fmt: skip
    made = f"registered {show.clock(version['created_at'])} by {version['created_by']}"
    return f"{version['id']} ({about}), {made}", parts


def copied(origin: Mapping[str, Any]) -> str:
    """Where a version was copied from, as a line."""
    made = f"registered {show.clock(origin['created_at'])} by {origin['created_by']}"
    return f"copied from {origin['registry']} ({origin['provider']}): {origin['version']}, {made}"


def _input(name: str, data: Mapping[str, Any]) -> Branch:
    files = data.get("files") or []
    size = sum(int(file.get("bytes", 0)) for file in files)
    rows = f"{data['rows']:,} rows, " if isinstance(data.get("rows"), int) else ""
    many = f"{len(files)} file" + ("" if len(files) == 1 else "s")
    lines = [f"{file['sha256'][:12]}  {file['uri']}" for file in files[:20]]
    more = [f"and {len(files) - len(lines)} more"] if len(files) > len(lines) else []
    return f"{name}: {data.get('uri', '-')}", [
        (f"{rows}{many}, {size:,} bytes, sha256 {data.get('sha256', '-')}", [(line, []) for line in [*lines, *more]])
    ]


def _code(code: Mapping[str, Any]) -> Branch:
    dirty = ", with uncommitted changes" if code.get("dirty") else ""
    return f"code: commit {code.get('commit') or '-'}{dirty}", [
        (f"{code.get('uri', '-')}", []),
        (f"sha256 {code.get('sha256', '-')}", []),
    ]


def _environment(found: Mapping[str, Any]) -> Branch:
    gpus = ", ".join(gpu["name"] for gpu in found.get("gpus") or ()) or "no GPU"
    return f"environment: {found.get('python', '-')}, {len(found.get('packages') or ())} packages", [
        (f"lock sha256 {found.get('lock_sha256') or '-'}", []),
        (f"{found.get('cpu', '-')}, {found.get('cpus', '-')} CPUs, {found.get('machine', '-')}, {gpus}", []),
        (str(found.get("os", "-")), []),
    ]


def _times(run: Mapping[str, Any]) -> list[Branch]:
    return [
        (f"{name} {show.clock(run[key])}", [])
        for name, key in (("submitted", "submitted_at"), ("started", "started_at"), ("ended", "ended_at"))
        if run.get(key)
    ]


def _facts(found: Mapping[str, Any], *names: str) -> list[Branch]:
    return [(f"{name}: {found[name]}", []) for name in names if found.get(name)]


def _pairs(label: str, found: Mapping[str, Any] | None, *without: str) -> list[Branch]:
    kept = {name: value for name, value in (found or {}).items() if name not in without and value not in ("", {})}
    text = ", ".join(f"{name} {_value(value)}" for name, value in sorted(kept.items()))
    return [(f"{label}: {text}", [])] if text else []


def _value(value: Any) -> str:
    return f"{value:,}" if type(value) is int else show.number(value) if isinstance(value, float) else str(value)


def _metrics(found: Mapping[str, float]) -> list[Branch]:
    lines: list[Branch] = [(f"{name} {_value(value)}", []) for name, value in sorted(found.items())]
    return [("metrics", lines)] if lines else []


def _slices(rows: Sequence[Mapping[str, Any]]) -> list[Branch]:
    from ekiben.lineage.slices import label, numbers

    lines: list[Branch] = [
        (f"{label(row)}: " + ", ".join(f"{name} {_value(value)}" for name, value in numbers(row).items()), [])
        for row in rows
    ]
    return [("slices", lines)] if lines else []


def _decision(one: Mapping[str, Any]) -> str:
    change = f", {one['before'] or '-'} to {one['after']}" if one["before"] != one["after"] else ""
    why = f": {one['why']}" if one["why"] else ""
    return f"{show.clock(one['when'])} {one['who']}: {one['what']}{change}{why}"


def _print(branch: Branch, head: str = "", rest: str = "") -> None:
    label, below = branch
    show.line(head + label)
    for i, one in enumerate(below):
        last = i == len(below) - 1
        _print(one, f"{rest}{'└─ ' if last else '├─ '}", f"{rest}{'   ' if last else '│  '}")


def _openlineage(used: Runtime, told: Mapping[str, Any], path: str) -> None:
    from ekiben.lineage.openlineage import events

    platform = used.platform
    found = events(told, namespace=f"{platform.project}/{platform.stack}")
    write(path, "".join(json.dumps(event, sort_keys=True, ensure_ascii=False) + "\n" for event in found))


def _cyclonedx(used: Runtime, told: Mapping[str, Any], path: str) -> None:
    from ekiben.lineage.cyclonedx import bill

    made = bill(told, _packages(used, told))
    write(path, json.dumps(made, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def _packages(used: Runtime, told: Mapping[str, Any]) -> list[Pin]:
    """The packages of the run's lock, with the hashes in it; when its code is not there, those that the run recorded."""
    from ekiben.lineage.account import code_of, lock_of
    from ekiben.lineage.lock import installed

    lock, environment = "", told["environment"]
    with tempfile.TemporaryDirectory(prefix="ekiben-lineage-") as private:
        try:
            code = code_of(used, told["code"], Path(private))
            lock = lock_of(code, str(environment.get("lock_sha256") or ""))
        except (ProviderError, SpecError) as error:
            show.say(f"The packages are those that the run recorded, without hashes: {error}")
    return installed(lock, environment)
