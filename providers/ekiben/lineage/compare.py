"""Two versions side by side: what they are measured as, and what they were made from."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ekiben.errors import ProviderError, SpecError
from ekiben.lineage.account import code_of, part
from ekiben.lineage.slices import label, numbers
from ekiben.packing import archive
from ekiben.runtime import Runtime

__all__ = ["compare"]

DIFF_LINES = 2000
TEXT_BYTES = 1 << 20


def compare(runtime: Runtime, a: Mapping[str, Any], b: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Two accounts side by side; `folder` is where their code is unpacked.

    {"a", "b" (the versions), "metrics": [{"name", "a", "b"}], "slices": [{"slice", "measures": {name: {"a", "b"}}}],
    "data": [{"name", "a", "b", "equal", "files"}], "params", "environment", "packages": [{"name", "a", "b"}] (of the last two only
    what differs), "packages_equal": their number, "code": {"a", "b", "equal", "files": [{"name", "change", "diff"}]}, "missing"}.
    What one of them does not have is None.
    """
    missing = [f"{told['version']['id']}: {problem}" for told in (a, b) for problem in told["missing"]]
    packages = _pairs(part(a["environment"], "packages"), part(b["environment"], "packages"))
    return {
        "a": a["version"],
        "b": b["version"],
        "metrics": _pairs(a["evaluation"]["metrics"], b["evaluation"]["metrics"]),
        "slices": _slices(a["evaluation"]["slices"], b["evaluation"]["slices"]),
        "data": _data(a["data"], b["data"]),
        "params": _pairs(_settings(a), _settings(b)),
        "code": _code(runtime, a, b, folder, missing),
        "environment": [pair for pair in _pairs(_machine(a), _machine(b)) if pair["a"] != pair["b"]],
        "packages": [pair for pair in packages if pair["a"] != pair["b"]],
        "packages_equal": sum(pair["a"] == pair["b"] for pair in packages),
        "missing": missing,
    }


def _pairs(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, "a": a.get(name), "b": b.get(name)} for name in sorted({*a, *b})]


def _settings(told: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters and seeds, and what the run ran with."""
    job = {f"job: {name}": value for name, value in told["job"].items() if name not in ("training", "env")}
    env = {f"env: {name}": value for name, value in part(told["job"], "env").items()}
    seeds = {f"seed: {name}": value for name, value in part(told["run"], "seeds").items()}
    return {**part(told["run"], "params"), **seeds, **job, **env}


def _machine(told: Mapping[str, Any]) -> dict[str, Any]:
    found = told["environment"]
    gpus = ", ".join(str(gpu.get("name")) for gpu in found.get("gpus") or ())
    kept = ("python", "os", "machine", "cpu", "cpus", "driver", "lock_sha256")
    return {**{name: found.get(name) for name in kept}, "gpus": gpus}


def _slices(a: Iterable[Mapping[str, Any]], b: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    left, right = ({label(row): numbers(row) for row in rows} for rows in (a, b))
    found = []
    for name in dict.fromkeys([*left, *right]):
        before, after = left.get(name, {}), right.get(name, {})
        measures = {one: {"a": before.get(one), "b": after.get(one)} for one in dict.fromkeys([*before, *after])}
        found.append({"slice": name, "measures": measures})
    return found


def _data(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for name in sorted({*a, *b}):
        before, after = a.get(name), b.get(name)
        left, right = _files(before), _files(after)
        found.append(
            {
                "name": name,
                "a": _summary(before),
                "b": _summary(after),
                "equal": bool(before and after and before.get("sha256") == after.get("sha256")) or left == right,
                "files": [{"name": one, "change": change} for one, change in _changes(left, right)],
            }
        )
    return found


def _files(data: Mapping[str, Any] | None) -> dict[str, str]:
    """Name below the input's prefix -> SHA-256."""
    if not data:
        return {}
    base = unquote(str(data.get("uri", ""))).rpartition("/")[0] + "/"
    return {unquote(file["uri"]).removeprefix(base): file["sha256"] for file in data.get("files") or ()}


def _summary(data: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if data is None:
        return None
    files = data.get("files") or []
    return {
        "uri": data.get("uri"), "sha256": data.get("sha256"), "rows": data.get("rows"), "files": len(files),
        "bytes": sum(int(file.get("bytes", 0)) for file in files),
    }  # fmt: skip


def _changes(a: Mapping[str, str], b: Mapping[str, str]) -> list[tuple[str, str]]:
    found = []
    for name in sorted({*a, *b}):
        if a.get(name) != b.get(name):
            found.append((name, "added" if name not in a else "removed" if name not in b else "changed"))
    return found


def _code(
    runtime: Runtime, a: Mapping[str, Any], b: Mapping[str, Any], folder: Path, missing: list[str]
) -> dict[str, Any]:
    equal = bool(a["code"].get("sha256")) and a["code"].get("sha256") == b["code"].get("sha256")
    found = {"a": a["code"], "b": b["code"], "equal": equal, "files": []}
    if equal:
        return found
    trees = []
    for told in (a, b):
        try:
            trees.append(archive.files(code_of(runtime, told["code"], folder)))
        except (ProviderError, SpecError) as error:
            missing.append(f"{told['version']['id']}: its code: {error}")
    if len(trees) == 2:
        left, right = trees
        sums = [{name: archive.sha256(path) for name, path in tree.items()} for tree in trees]
        found["files"] = [
            {"name": name, "change": change, "diff": _diff(name, left.get(name), right.get(name))}
            for name, change in _changes(*sums)
        ]
    return found


def _diff(name: str, a: Path | None, b: Path | None) -> str:
    """What has changed, as `diff -u` has it; empty for what is no text, or too long to be read."""
    texts = []
    for path in (a, b):
        data = path.read_bytes() if path and path.stat().st_size <= TEXT_BYTES else b"" if path is None else b"\0"
        if b"\0" in data:
            return ""
        texts.append(data.decode("utf-8", "replace").splitlines())
    lines = list(difflib.unified_diff(texts[0], texts[1], f"a/{name}", f"b/{name}", lineterm=""))
    more = [f"... and {len(lines) - DIFF_LINES} more lines"] if len(lines) > DIFF_LINES else []
    return "\n".join([*lines[:DIFF_LINES], *more])
