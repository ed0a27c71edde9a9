"""The figures as a table and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["table", "write"]

PLOT = "![requests per second, and seconds to the first answer](serving.svg)"
BEGIN, END = "<!-- serving:begin -->", "<!-- serving:end -->"


def table(figures: dict[str, Any]) -> str:
    """Markdown: a line for each server, the fastest first, and the ratios below."""
    heads = (
        "server", "requests/s", "p50 ms", "p99 ms", "requests/s, 1 connection", "64 connections", "100 rows, 16 connections",
        "first answer s", "memory MiB", "installed MiB",
    )  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", f"|---|{'--:|' * (len(heads) - 1)}"]
    servers = sorted(figures["servers"], key=lambda one: -one.get("load", {}).get("1x16", {}).get("requests_s", 0))
    for one in servers:
        if "load" not in one:
            lines.append(f"| {one['name']} | failed: {one['error']} | | | | | | | | |")
            continue
        load = one["load"]
        speeds = [f"{load[key]['requests_s']:,.0f}" for key in ("1x1", "1x64", "100x16")]
        lines.append(
            f"| {one['name']} | {load['1x16']['requests_s']:,.0f} | {load['1x16']['p50_ms']:.2f} | {load['1x16']['p99_ms']:.2f} | "
            f"{' | '.join(speeds)} | {one['start_s']:.2f} | {one['memory_mib']:.0f} | {one['site_packages_mib']} |"
        )
    if echo := figures.get("echo"):
        cells = (f"{echo['requests_s']:,.0f}", f"{echo['p50_ms']:.2f}", f"{echo['p99_ms']:.2f}")
        lines.append(f"| the echo of our HTTP server | {' | '.join(cells)} |{' |' * 6}")
    names = {
        "vs_bentoml": "times `bentoml serve`", "exact_vs_bentoml": "times `bentoml serve` on the exact path",
        "vs_best_peer": "times the fastest other server of models", "vs_echo": "of the echo",
        "start_vs_best_peer": "times as fast to the first answer as the fastest other", "p99_rank": "rank by p99 (1 is the lowest)",
    }  # fmt: skip
    ratios = [f"{figures[key]} {text}" for key, text in names.items() if figures.get(key) is not None]
    note = (
        f"XGBoost alone: {figures['xgboost_alone_us']:g} microseconds a row. {figures['machine']}; the server on one core, "
        "wrk on another; one row and 16 connections unless said; the answers of all are equal."
    )
    return "\n".join([*lines, "", f"Ekiben: {'; '.join(ratios)}." if ratios else "", "", note])


def write(figures: dict[str, Any], docs: Path) -> None:
    """Into docs/benchmarks.md, between its marks, and docs/serving.svg."""
    page = docs / "benchmarks.md"
    text = page.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, foot = rest.partition(END)
    page.write_text(f"{head}{BEGIN}\n{table(figures)}\n\n{PLOT}\n{END}{foot}", encoding="utf-8")
    _plot(figures, docs / "serving.svg")


def _plot(figures: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "ekiben"
    from matplotlib import pyplot

    servers = sorted(
        (one for one in figures["servers"] if "load" in one), key=lambda one: one["load"]["1x16"]["requests_s"]
    )
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 0.5 * len(servers) + 1.2), sharey=True)
    names = [one["name"] for one in servers]
    colours = ["#b5452c" if one["group"] == "ekiben" else "#9a9a9a" for one in servers]
    speeds = [one["load"]["1x16"]["requests_s"] for one in servers]
    starts = [one["start_s"] for one in servers]
    for axis, values, title, form in (
        (left, speeds, "requests per second", "{:,.0f}"),
        (right, starts, "seconds from start to first answer", "{:.2f}"),
    ):
        bars = axis.barh(names, values, color=colours)
        axis.bar_label(bars, [form.format(value) for value in values], padding=3)
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.tick_params(left=False, bottom=False, labelbottom=False)
        axis.margins(x=0.2)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
