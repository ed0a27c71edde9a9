"""compare: two versions side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ekiben.cli import options, show
from ekiben.cli.lineage import by_number, write
from ekiben.cli.platform import runtime

__all__ = ["register"]

CELL = 40


def register(app: typer.Typer) -> None:
    app.command()(compare)


def compare(
    a: Annotated[
        str, typer.Argument(metavar="MODEL@VERSION", help="employment@champion, employment@3 or employment:3.")
    ],
    b: Annotated[
        str, typer.Argument(metavar="MODEL@VERSION", help="The other version, of the same model or of another.")
    ],
    html: Annotated[
        str, typer.Option("--html", metavar="FILE", help="Write a page with plots and the changes of the code.")
    ] = "",
    registry: options.Registry = "",
    json: options.Json = False,
    stack: options.Stack = "",
) -> None:
    """Show two versions side by side.

    Metrics, slices, data, parameters, code and dependencies. The page is one file that fetches nothing.

    \b
    Examples:
      ekiben compare employment@champion employment:4
      ekiben compare employment:3 employment:4 --html comparison.html
    """
    from ekiben.lineage.account import account
    from ekiben.lineage.compare import compare as side_by_side

    used = runtime(stack)
    told = [account(used, used.registry(registry), by_number(ref)) for ref in (a, b)]
    with tempfile.TemporaryDirectory(prefix="ekiben-compare-") as private:
        found = side_by_side(used, told[0], told[1], Path(private))
    for problem in found["missing"]:
        show.say(f"Not read: {problem}")
    if html:
        from ekiben.lineage.page import page

        write(html, page(found))
    if json:
        show.to_json(found)
    elif html != "-":
        _print(found)


def _print(found: Mapping[str, Any]) -> None:
    a, b = found["a"]["id"], found["b"]["id"]
    metrics = [
        (pair["name"], _cell(pair["a"]), _cell(pair["b"]), _change(pair["a"], pair["b"])) for pair in found["metrics"]
    ]
    _part(("metric", a, b, "change"), metrics)
    _part(("slice", "measure", a, b, "change"), _slices(found))
    _part(("data", "", a, b), _data(found))
    _part(("parameter", a, b), [(pair["name"], _cell(pair["a"]), _cell(pair["b"])) for pair in found["params"]])
    code = found["code"]
    rows = [(name, _cell(code["a"].get(name)), _cell(code["b"].get(name))) for name in ("commit", "dirty", "sha256")]
    _part(("code", a, b), rows)
    _part(("file of the code", "change"), [(file["name"], file["change"]) for file in code["files"]])
    rows = [(pair["name"], _cell(pair["a"]), _cell(pair["b"])) for pair in found["packages"]]
    _part((f"package ({found['packages_equal']} are the same)", a, b), rows)
    _part(
        ("environment", a, b),
        [(pair["name"], _cell(pair["a"]), _cell(pair["b"])) for pair in found["environment"]],
        last=True,
    )


def _part(columns: tuple[str, ...], rows: list[Any], *, last: bool = False) -> None:
    if rows:
        show.table(columns, rows)
        if not last:
            show.line()


def _slices(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What has moved most in each slice: all of it is in the page and in --json."""
    rows: list[tuple[str, ...]] = []
    for row in found["slices"]:
        both = {
            name: one
            for name, one in row["measures"].items()
            if None not in (one["a"], one["b"]) and one["a"] != one["b"]
        }
        if both:
            name = max(both, key=lambda name: abs(both[name]["b"] - both[name]["a"]) / max(1e-12, abs(both[name]["a"])))
            one = both[name]
            rows.append((row["slice"], name, _cell(one["a"]), _cell(one["b"]), _change(one["a"], one["b"])))
    return rows


def _data(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for one in found["data"]:
        a, b = one["a"] or {}, one["b"] or {}
        rows += [
            (one["name"], key, _cell(a.get(key)), _cell(b.get(key))) for key in ("sha256", "rows", "files", "bytes")
        ]
        rows += [(one["name"], file["name"], file["change"], "") for file in one["files"]]
    return rows


def _change(a: float | None, b: float | None) -> str:
    return "" if a is None or b is None or a == b else f"{b - a:+.4g}"


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    text = f"{value:,}" if type(value) is int else show.number(value) if isinstance(value, float) else str(value)
    return text if len(text) <= CELL else text[: CELL - 3] + "..."
