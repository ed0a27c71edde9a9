"""The model and what it is measured against."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import xgboost
from columns import INPUTS, TARGET
from sklearn.metrics import precision_recall_curve

COLUMNS = list(INPUTS)
PARAMS: dict[str, tuple[float, float, float]] = {
    # name: default, least, most
    "rounds": (200, 1, 5000),
    "max_depth": (6, 1, 16),
    "learning_rate": (0.1, 0.001, 1.0),
    "min_precision": (0.85, 0.5, 0.999),
    "seed": (7, 0, 2**31 - 1),
}


class BadParams(Exception):
    """A parameter is unknown or out of its range."""


def params(given: dict[str, Any]) -> dict[str, Any]:
    """The defaults with `given` over them. Raises BadParams."""
    if unknown := sorted(set(given) - set(PARAMS)):
        raise BadParams(f"There is no parameter {unknown[0]!r}; there are: {', '.join(PARAMS)}.")
    merged = {name: given.get(name, default) for name, (default, _, _) in PARAMS.items()}
    for name, value in merged.items():
        default, least, most = PARAMS[name]
        kind = type(default)
        if isinstance(value, bool) or not isinstance(value, (int, kind)) or not least <= value <= most:
            whole = "a whole number" if kind is int else "a number"
            raise BadParams(f"The parameter {name}={value!r} is not {whole} from {least} to {most}.")
    return merged


def inputs(frame: pd.DataFrame) -> np.ndarray:
    return frame[COLUMNS].to_numpy(np.float32)


def train(
    train: pd.DataFrame,
    tune: pd.DataFrame,
    params: dict[str, Any],
    on_round: Callable[[xgboost.Booster, float], None],
    start: xgboost.Booster | None = None,
) -> xgboost.Booster:
    """Boosted trees. `on_round` hears of each round: the model so far, its log loss on `tune`. Same rows and params, same bytes.

    `start` is the model so far of an earlier attempt: going on from it makes the same bytes as not having stopped, because nothing
    here is drawn at random in a round. With `subsample` or `colsample_by*` that would not hold.
    """
    learn = xgboost.QuantileDMatrix(inputs(train), train[TARGET], feature_names=COLUMNS)
    watch = xgboost.QuantileDMatrix(inputs(tune), tune[TARGET], feature_names=COLUMNS, ref=learn)
    settings = {
        "objective": "binary:logistic",
        "eval_metric": "logloss",
        "tree_method": "hist",
        "device": device(),
        "max_depth": params["max_depth"],
        "learning_rate": params["learning_rate"],
        "seed": params["seed"],
    }
    left = params["rounds"] - (start.num_boosted_rounds() if start else 0)
    return xgboost.train(
        settings, learn, left, evals=[(watch, "tune")], verbose_eval=False, callbacks=[_Tell(on_round)], xgb_model=start,
    )  # fmt: skip


def device() -> str:
    """cuda when this run was given a GPU and this xgboost can use it."""
    return "cuda" if os.environ.get("CUDA_VISIBLE_DEVICES") and xgboost.build_info().get("USE_CUDA") else "cpu"


class _Tell(xgboost.callback.TrainingCallback):
    def __init__(self, on_round: Callable[[xgboost.Booster, float], None]) -> None:
        super().__init__()
        self.on_round = on_round

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        self.on_round(model, float(evals_log["tune"]["logloss"][-1]))
        return False


def predict(booster: xgboost.Booster, frame: pd.DataFrame) -> np.ndarray:
    return booster.predict(xgboost.DMatrix(inputs(frame), feature_names=COLUMNS))


def baseline(train: pd.DataFrame, frame: pd.DataFrame) -> np.ndarray:
    """The trivial answer: how many of that age were employed in the years before. A model must beat it."""
    rates = train.groupby("AGEP")[TARGET].mean()
    return frame["AGEP"].map(rates).fillna(train[TARGET].mean()).to_numpy(float)


def overfits(frame: pd.DataFrame, seed: int) -> float:
    """Accuracy on 100 different rows that an unrestrained model has learnt by heart; below 1, the data is broken."""
    few = frame.drop_duplicates(COLUMNS).head(100)
    matrix = xgboost.DMatrix(inputs(few), few[TARGET], feature_names=COLUMNS)
    settings = {
        "objective": "binary:logistic",
        "max_depth": 0,
        "max_leaves": 0,
        "eta": 1.0,
        "lambda": 0,
        "min_child_weight": 0,
    }
    booster = xgboost.train({**settings, "seed": seed}, matrix, 50)
    return float(((booster.predict(matrix) >= 0.5) == (few[TARGET] == 1)).mean())


def threshold(truth: pd.Series, scores: np.ndarray, min_precision: float) -> float:
    """The score from which to say yes: of those that are right often enough (`min_precision`) the one that finds most.

    Where none is right that often, the one with the best F1.
    """
    precision, recall, at = precision_recall_curve(truth, scores)
    precision, recall = precision[:-1], recall[:-1]
    enough = precision >= min_precision
    if enough.any():
        return float(at[enough][np.argmax(recall[enough])])
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(at[np.argmax(f1)])
