"""Who is employed? From census files to a model, its measure, and a page that shows both.

Reads the folder EKIBEN_INPUT_CENSUS, and needs nothing but the environment variables of a job: it runs the same on a
laptop and in a cloud. A run that was interrupted goes on from its last checkpoint, to the same bytes.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import data
import evaluate
import model
import numpy as np
import pandas as pd
import report
import scoring
import xgboost
from columns import CHECKED, ID, INPUTS, LABEL, TARGET, YEAR

from ekiben import job

CHECKPOINT_S = 5.0


def main() -> None:
    node = job.node()
    job.terminating()  # from now on SIGTERM is asked for, in each round
    try:
        params = model.params(job.params())
        people = data.read(job.inputs()["census"])
        train, tune, test = data.split(people)
    except (data.BadData, model.BadParams) as problem:
        job.fail(str(problem))
    years = [int(year) for year in sorted(people[YEAR].unique())]
    print(
        f"{len(people):,} people, {years[0]} to {years[-1]}: {len(train):,} to learn from, {len(test):,} to test on",
        flush=True,
    )

    if (learnt := model.overfits(train, params["seed"])) < 0.99:
        job.fail(
            f"A model could not learn 100 rows by heart ({learnt:.0%} right): the columns or the labels are broken."
        )

    start, curve = resumed()
    if start:
        print(f"goes on after {len(curve)} trees", flush=True)
    saved_s = time.monotonic()

    def on_round(booster: xgboost.Booster, log_loss: float) -> None:
        nonlocal saved_s
        curve.append(log_loss)
        round = len(curve)
        if node.rank != 0:
            return
        if round % 10 == 0 or round == params["rounds"]:
            job.log_metric("log_loss", log_loss, round)
            print(f"trees {round}/{params['rounds']}, log loss {log_loss:.4f}", flush=True)
        if job.terminating() or time.monotonic() - saved_s > CHECKPOINT_S:
            checkpoint(booster, curve)
            saved_s = time.monotonic()
        if job.terminating():
            job.leave()

    with job.xgboost_collective():
        # Each node learns from its share of the rows; together they grow the same trees.
        mine = slice(node.rank, None, node.count)
        booster = model.train(train[mine], tune[mine], params, on_round, start)
    if node.rank == 0:
        finish(booster, data.Split(train, tune, test), params, years, curve)


def checkpoint(booster: xgboost.Booster, curve: list[float]) -> None:
    """Keep the model so far, and its curve for the report."""

    def write_to(folder: Path) -> None:
        booster.save_model(folder / "model.ubj")
        write(folder / "curve.json", {"log_loss": curve})

    job.save_checkpoint(len(curve), write_to)


def resumed() -> tuple[xgboost.Booster | None, list[float]]:
    """What an earlier attempt of this run came to: the model so far and its curve."""
    found = job.latest_checkpoint()
    if found is None:
        return None, []
    curve = json.loads((found.folder / "curve.json").read_text(encoding="utf-8"))["log_loss"]
    return xgboost.Booster(model_file=found.folder / "model.ubj"), curve


def finish(
    booster: xgboost.Booster, split: data.Split, params: dict[str, Any], years: list[int], curve: list[float]
) -> None:
    """Choose the threshold, measure on the last year, and write what the job owes."""
    train, tune, test = split
    threshold = model.threshold(tune[TARGET], model.predict(booster, tune), params["min_precision"])
    chance = model.predict(booster, test)
    ours = evaluate.scores(test[TARGET], chance, threshold)
    trivial = evaluate.scores(test[TARGET], model.baseline(train, test), 0.5)
    if ours["auc"] <= trivial["auc"]:
        job.fail(
            f"The model (AUC {ours['auc']:.4f}) does not beat the trivial baseline, age alone ({trivial['auc']:.4f})."
        )
    slices = evaluate.slices(test, chance, threshold)
    metrics = {
        **ours,
        "threshold": threshold,
        **{f"baseline_{name}": value for name, value in trivial.items()},
        "recall_gap_sex": evaluate.gap(slices, "sex", "recall"),
        "recall_gap_race": evaluate.gap(slices, "race", "recall"),
        "auc_gap_race": evaluate.gap(slices, "race", "auc"),
    }
    rows = {"learn from": len(train), "set the threshold": len(tune), "test": len(test)}

    save(booster, threshold)
    out = job.output_dir()
    write(out / "metrics.json", {"metrics": metrics, "slices": slices})
    write(out / "signature.json", signature(test, chance))
    write(out / "lineage.json", {"rows": {"census": sum(rows.values())}, "seeds": {"seed": params["seed"]}})
    some = test[:: max(len(test) // 500, 1)]  # a contribution takes long to compute, and a mean needs few
    people = [{name: int(person[name]) for name in model.COLUMNS} for _, person in some.iterrows()]
    # What `ekiben rebuild` asks a model that it has made again, beside the sample.
    asked = {"route": "predict_batch", "request": {"people": people}}
    (out / "evaluation.jsonl").write_text(json.dumps(asked) + "\n", encoding="utf-8")
    parts = booster.predict(xgboost.DMatrix(model.inputs(some), feature_names=model.COLUMNS), pred_contribs=True)
    facts = {
        "run": os.environ.get("EKIBEN_RUN_ID", "by-hand"),
        "years": years,
        "rows": rows,
        "params": params,
        "model": ours,
        "baseline": trivial,
        "threshold": threshold,
        "slices": slices,
        "curve": curve,
        "importance": {
            INPUTS[name].title: float(size)
            for name, size in zip(model.COLUMNS, np.abs(parts).mean(axis=0), strict=False)
        },
    }
    report.write(out / "report.html", facts, test[TARGET], chance)
    for name, value in metrics.items():
        job.log_metric(name, value, params["rounds"])
    print(
        f"AUC {ours['auc']:.4f} on {years[-1]} (age alone: {trivial['auc']:.4f}), threshold {threshold:.3f}", flush=True
    )


def save(booster: xgboost.Booster, threshold: float) -> None:
    """The model's files: the trees, and a card with what a service needs to answer in words."""
    folder = job.model_dir()
    booster.save_model(folder / "model.ubj")
    columns = [{"name": name, "title": about.title, "codes": about.codes} for name, about in INPUTS.items()]
    decisions = [LABEL.codes[0], LABEL.codes[1]]
    write(folder / "model.json", {"columns": columns, "decisions": decisions, "target": TARGET, "threshold": threshold})


def signature(test: pd.DataFrame, chance: np.ndarray) -> dict[str, Any]:
    """The raw columns that were used, and a request with the answer that the saved model gives to it."""
    # The person at the third quartile: a plain case, well away from the threshold.
    typical = test.iloc[np.argsort(chance, kind="stable")[3 * len(test) // 4]]
    person = {name: int(typical[name]) for name in model.COLUMNS}
    answer = scoring.Model(job.model_dir()).answer([person])[0]
    return {
        "columns": model.COLUMNS,
        "target": TARGET,
        "keys": [ID, YEAR],
        "checked": list(CHECKED),
        **job.fast_path(),
        "sample": {"route": "predict", "request": {"person": person}, "response": answer},
    }


def write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
