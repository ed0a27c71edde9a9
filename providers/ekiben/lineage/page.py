"""The comparison of two versions as one self-contained page: no script, nothing fetched, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ekiben.lineage.plot import dumbbells

__all__ = ["page"]

STYLE = """
:root{color-scheme:light dark;--ink:#1b2430;--soft:#5b6675;--line:#dfe3e8;--ground:#fff;--panel:#f6f7f9;--a:#b45309;--b:#0f766e;
--added:#e6f4ea;--removed:#fdeaea}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa5b4;--line:#343c47;--ground:#14181d;--panel:#1d232a;--a:#f0a860;
--b:#4fd1bd;--added:#173324;--removed:#3d2022}}
*{box-sizing:border-box}body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--ground);max-width:64rem;
margin:2rem auto;padding:0 1rem}h1{font-size:1.7rem;margin:0 0 .2rem}h2{font-size:1.25rem;margin:2.5rem 0 .6rem}
p{margin:.3rem 0}.soft,figcaption,caption{color:var(--soft)}.a{color:var(--a)}.b{color:var(--b)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
caption{text-align:left;padding-bottom:.3rem}th,td{padding:.3rem .7rem;border-bottom:1px solid var(--line);text-align:left;
vertical-align:top;overflow-wrap:anywhere}th{white-space:nowrap}td:first-child{overflow-wrap:normal;min-width:6rem}
td.n,th.n{text-align:right;white-space:nowrap;overflow-wrap:normal}
thead th{border-bottom:2px solid var(--soft)}tr.same{color:var(--soft)}tr.moved td:first-child{font-weight:600}
figure{margin:.5rem 0}svg{display:block;width:100%;height:auto;font:13px system-ui,sans-serif}
svg text{fill:var(--ink)}svg .tick{fill:var(--soft);text-anchor:middle;font-size:12px}svg .label{text-anchor:end}
svg .grid{stroke:var(--line)}svg .span{stroke:var(--soft);stroke-width:2}
svg circle.a{fill:var(--ground);stroke:var(--a);stroke-width:2.5}svg circle.b{fill:var(--b)}svg .arrow{fill:var(--soft)}
details{margin:.5rem 0;border:1px solid var(--line);border-radius:.4rem}
summary{cursor:pointer;padding:.45rem .8rem;background:var(--panel);border-radius:.4rem}details>:not(summary){margin:.6rem .8rem}
pre{font:13px/1.45 ui-monospace,monospace;overflow-x:auto;background:var(--panel);padding:.5rem;margin:0}
pre span{display:block;min-width:max-content}.added{background:var(--added)}.removed{background:var(--removed)}
.hunk{color:var(--soft)}code{font:.92em ui-monospace,monospace;overflow-wrap:anywhere}
"""
OPEN = 2  # Plots of slices that are unfolded; what comes first in the job's own table is what it cares for.


def page(found: Mapping[str, Any]) -> str:
    """The page of what `compare` found."""
    a, b = found["a"]["id"], found["b"]["id"]
    parts = [
        f"<h1>{_name(a, 'a')} and {_name(b, 'b')}</h1>",
        *(f"<p class=soft>{_about(found[side])}</p>" for side in ("a", "b")),
        *(f"<p class=soft>Not read: {escape(problem)}</p>" for problem in found["missing"]),
        "<h2>Metrics</h2>",
        *_metrics(found, a, b),
        *_slices(found, a, b),
        "<h2>Data</h2>",
        *_data(found, a, b),
        "<h2>Parameters</h2>",
        _table(("", a, b), [_row(pair) for pair in found["params"]]) or "<p>None were recorded.</p>",
        "<h2>Code</h2>",
        *_code(found, a, b),
        "<h2>Dependencies</h2>",
        f"<p>{found['packages_equal']} packages have the same version in both.</p>",
        _table(("package", a, b), [_row(pair) for pair in found["packages"]]) or "<p>No other differs.</p>",
        "<h2>Environment</h2>",
        _table(("", a, b), [_row(pair) for pair in found["environment"]]) or "<p>Nothing differs.</p>",
    ]
    return (
        "<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{escape(a)} and {escape(b)}</title><style>{STYLE}</style>{''.join(parts)}</html>\n"
    )


def _metrics(found: Mapping[str, Any], a: str, b: str) -> Iterable[str]:
    pairs = found["metrics"]
    if not pairs:
        yield "<p>None were recorded.</p>"
        return
    # Those that share the scale from 0 to 1 can share a plot.
    shares = [pair for pair in pairs if all(pair[side] is None or 0 <= pair[side] <= 1 for side in "ab")]
    if shares:
        title = f"Metrics from 0 to 1 of {a} and {b}"
        yield _figure(dumbbells([(pair["name"], pair["a"], pair["b"]) for pair in shares], title), a, b)
    yield _table(("metric", a, b, "change"), [(*_row(pair), _change(pair)) for pair in pairs], numeric=True)


def _slices(found: Mapping[str, Any], a: str, b: str) -> Iterable[str]:
    rows = found["slices"]
    measures = dict.fromkeys(name for row in rows for name in row["measures"])
    if not measures:
        return
    yield "<h2>Slices</h2>"
    for i, name in enumerate(measures):
        points = [(row["slice"], *(row["measures"].get(name, {}).get(side) for side in "ab")) for row in rows]
        known = [point for point in points if point[1] is not None or point[2] is not None]
        plot = _figure(dumbbells(known, f"{name} by slice, of {a} and {b}"), a, b)
        yield f"<details{' open' if i < OPEN else ''}><summary>{escape(name)}</summary>{plot}</details>"


def _data(found: Mapping[str, Any], a: str, b: str) -> Iterable[str]:
    for one in found["data"]:
        yield f"<p><strong>{escape(one['name'])}</strong>: {'the same in both' if one['equal'] else 'not the same'}</p>"
        names = dict.fromkeys(name for side in "ab" for name in one[side] or ())
        pairs = [{"name": name, **{side: (one[side] or {}).get(name) for side in "ab"}} for name in names]
        yield _table(("", a, b), [_row(pair) for pair in pairs])
        if one["files"]:
            yield _table(("file", "change"), [(file["name"], file["change"]) for file in one["files"]])
    if not found["data"]:
        yield "<p>No inputs were recorded.</p>"


def _code(found: Mapping[str, Any], a: str, b: str) -> Iterable[str]:
    code = found["code"]
    names = ("commit", "dirty", "sha256")
    pairs = [{"name": name, "a": code["a"].get(name), "b": code["b"].get(name)} for name in names]
    yield _table(("", a, b), [_row(pair) for pair in pairs])
    if code["equal"]:
        yield "<p>The same code in both.</p>"
    for file in code["files"]:
        lines = "".join(f"<span class={_kind(line)}>{escape(line) or ' '}</span>" for line in file["diff"].splitlines())
        shown = f"<pre>{lines}</pre>" if lines else "<p>It is no text, or too long to be shown.</p>"
        yield f"<details><summary><code>{escape(file['name'])}</code>: {file['change']}</summary>{shown}</details>"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]], *, numeric: bool = False) -> str:
    """Empty without rows. A row whose second and third cell are equal is pale."""
    if not rows:
        return ""
    kinds = [" class=n" if numeric and i else "" for i in range(len(head))]
    top = "".join(f"<th scope=col{kind}>{escape(cell)}</th>" for kind, cell in zip(kinds, head, strict=True))
    body = []
    for row in rows:
        mark = "" if len(row) < 3 else " class=same" if row[1] == row[2] else " class=moved"
        cells = "".join(f"<td{kind}>{escape(str(cell))}</td>" for kind, cell in zip(kinds, row, strict=True))
        body.append(f"<tr{mark}>{cells}</tr>")
    return f"<div class=scroll><table><thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"


def _figure(svg: str, a: str, b: str) -> str:
    legend = f"<span class=a>○ {escape(a)}</span> &nbsp; <span class=b>● {escape(b)}</span>"
    return f"<figure>{svg}<figcaption>{legend}</figcaption></figure>"


def _row(pair: Mapping[str, Any]) -> tuple[str, str, str]:
    return pair["name"], _text(pair["a"]), _text(pair["b"])


def _text(value: Any) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}" if isinstance(value, float) else str(value)


def _change(pair: Mapping[str, Any]) -> str:
    a, b = pair["a"], pair["b"]
    if a is None or b is None:
        return ""
    share = f" ({(b - a) / abs(a):+.1%})" if a else ""
    return f"{b - a:+.4g}{share}" if b != a else "0"


def _kind(line: str) -> str:
    marks = {"+": "added", "-": "removed", "@": "hunk"}
    return "hunk" if line.startswith(("+++", "---")) else marks.get(line[:1], "plain")


def _name(version: str, side: str) -> str:
    return f"<span class={side}>{escape(version)}</span>"


def _about(version: Mapping[str, Any]) -> str:
    state = ", ".join([version["state"], *version["aliases"]])
    return f"{escape(version['id'])}: {escape(state)}; registered {escape(version['created_at'][:16].replace('T', ' '))} UTC"
