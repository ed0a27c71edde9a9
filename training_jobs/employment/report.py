"""One self-contained page about a run: what it was made from, how good it is and for whom."""

from __future__ import annotations

import io
from html import escape
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_curve

INK, GOOD, PALE = "#1f2937", "#0f766e", "#9ca3af"
STYLE = """
:root{color-scheme:light}body{font:16px/1.5 system-ui,sans-serif;color:#1f2937;max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{margin-bottom:0}h2{margin-top:2.5rem}p.lead{font-size:1.15rem;color:#4b5563;margin-top:.25rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}caption{text-align:left;color:#4b5563;padding-bottom:.4rem}
th,td{padding:.3rem .6rem;border-bottom:1px solid #e5e7eb;text-align:right}th:first-child,td:first-child{text-align:left}
thead th{border-bottom:2px solid #1f2937}tr.small{color:#6b7280}figure{margin:1rem 0}figcaption{color:#4b5563}
svg{max-width:100%;height:auto}.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(26rem,1fr));gap:1rem}
"""


def write(path: Path, facts: dict[str, Any], truth: pd.Series, probability: np.ndarray) -> None:
    """`facts`: run, years, rows, params, model, baseline, threshold, slices, curve, importance (as train.py makes them)."""
    model, baseline = facts["model"], facts["baseline"]
    lead = (
        f"On {facts['rows']['test']:,} people of {facts['years'][-1]}, a year it has not seen, the model ranks "
        f"{model['auc']:.1%} of the pairs rightly; age alone ranks {baseline['auc']:.1%}."
    )
    parts = [
        f"<h1>Employment, run {escape(facts['run'])}</h1><p class=lead>{lead}</p>",
        _table("The model against the trivial baseline (the share employed at that age in the earlier years).",
               ["", "model", "baseline"], [[name.replace("_", " "), _cell(model[name]), _cell(baseline[name])] for name in model]),
        "<h2>Where to say yes</h2><div class=two>",
        _figure(_threshold(facts, truth, probability), f"Precision and recall at each threshold. At {facts['threshold']:.3f}, "
                f"chosen on the earlier years, precision is {model['precision']:.1%} and recall {model['recall']:.1%}."),
        _figure(_calibration(truth, probability), "Calibration: of those given a probability, how many were employed."),
        "</div><h2>For whom</h2>",
        _slices(facts["slices"]),
        "<h2>What it looks at</h2><div class=two>",
        _figure(_importance(facts["importance"]), "Mean size of each column's contribution, in log-odds."),
        _figure(_curve(facts["curve"]), "Log loss on the held-out fifth of the earlier years, as the trees were added."),
        "</div><h2>What it was made from</h2>",
        _table("Rows and parameters.", ["", "value"],
               [[f"rows to {name}", f"{count:,}"] for name, count in facts["rows"].items()]
               + [[escape(name), escape(str(value))] for name, value in facts["params"].items()]),
        "<p>Data: US Census Bureau, American Community Survey public use microdata, Massachusetts.</p>",
    ]  # fmt: skip
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>Employment, run {escape(facts['run'])}</title><style>{STYLE}</style>{''.join(parts)}</html>"
    )
    path.write_text(page, encoding="utf-8")


def _slices(table: list[dict[str, Any]]) -> str:
    head = ["group", "rows", "employed", "said employed", "AUC", "accuracy", "precision", "recall"]
    rows = []
    for row in table:
        cells = [_cell(row[name]) for name in ("employed", "said_employed", "auc", "accuracy", "precision", "recall")]
        rows.append([escape(f"{row['by']}: {row['group']}"), f"{row['rows']:,}", *cells])
    small = [row["small"] for row in table]
    return _table(
        "Sex and race are not inputs of the model. Groups in grey have fewer than 100 people.", head, rows, small
    )


def _table(caption: str, head: list[str], rows: list[list[str]], small: list[bool] | None = None) -> str:
    top = "".join(f"<th scope=col>{cell}</th>" for cell in head)
    body = "".join(
        f"<tr{' class=small' if small and small[i] else ''}>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
        for i, row in enumerate(rows)
    )
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _threshold(facts: dict[str, Any], truth: pd.Series, probability: np.ndarray) -> plt.Figure:
    precision, recall, at = precision_recall_curve(truth, probability)
    step = max(len(at) // 400, 1)
    figure, axes = _axes("threshold", "share")
    axes.plot(at[::step], precision[:-1][::step], color=GOOD, label="precision")
    axes.plot(at[::step], recall[:-1][::step], color=INK, label="recall")
    axes.axvline(facts["threshold"], color=PALE, linestyle="--")
    axes.legend(frameon=False)
    return figure


def _calibration(truth: pd.Series, probability: np.ndarray) -> plt.Figure:
    tenth = np.minimum((probability * 10).astype(int), 9)
    there = [i for i in range(10) if (tenth == i).any()]
    figure, axes = _axes("probability given", "share employed")
    axes.plot([0, 1], [0, 1], color=PALE, linestyle="--")
    axes.plot(
        [probability[tenth == i].mean() for i in there], [truth[tenth == i].mean() for i in there], "o-", color=GOOD
    )
    return figure


def _importance(importance: dict[str, float]) -> plt.Figure:
    names = sorted(importance, key=importance.__getitem__)
    figure, axes = _axes("", "")
    axes.barh(names, [importance[name] for name in names], color=GOOD)
    return figure


def _curve(curve: list[float]) -> plt.Figure:
    figure, axes = _axes("trees", "log loss")
    axes.plot(range(1, len(curve) + 1), curve, color=GOOD)
    return figure


def _axes(x: str, y: str) -> tuple[plt.Figure, plt.Axes]:
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    axes.set(xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _figure(figure: plt.Figure, caption: str) -> str:
    drawn = io.StringIO()
    # A fixed salt and no date: the same run draws the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "ekiben", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    plt.close(figure)
    svg, words = drawn.getvalue(), escape(caption)
    return f"<figure role=img aria-label='{words}'>{svg[svg.index('<svg') :]}<figcaption>{words}</figcaption></figure>"
