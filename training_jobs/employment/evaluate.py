"""How good the model is: overall, and for each group."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from columns import CHECKED, TARGET
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

AGES = [0, 16, 25, 35, 45, 55, 65, 75, 200]
FEWEST = 100


def scores(truth: pd.Series, probability: np.ndarray, threshold: float) -> dict[str, float]:
    """AUC (nan with one answer only), log loss, Brier score, and accuracy, precision, recall of the decision."""
    yes, said = truth.to_numpy() == 1, probability >= threshold
    right = int((yes & said).sum())
    return {
        "auc": float(roc_auc_score(yes, probability)) if 0 < yes.sum() < len(yes) else float("nan"),
        "log_loss": float(log_loss(yes, probability, labels=[False, True])),
        "brier": float(brier_score_loss(yes, probability)),
        "accuracy": float((yes == said).mean()),
        "precision": right / max(int(said.sum()), 1),
        "recall": right / max(int(yes.sum()), 1),
    }


def slices(frame: pd.DataFrame, probability: np.ndarray, threshold: float) -> list[dict[str, Any]]:
    """The same scores by sex, race and age, with rows, share employed and share said to be. Under 100 rows is `small`."""
    bands = pd.cut(frame["AGEP"], AGES, right=False)
    groups = [
        *((about.title, about.codes[code], frame[column] == code)
          for column, about in CHECKED.items() for code in sorted(frame[column].unique())),
        *(("age", f"{band.left} to {band.right - 1}" if band.right < AGES[-1] else f"{band.left} and over", bands == band)
          for band in bands.cat.categories),
    ]  # fmt: skip
    table = []
    for by, group, mask in groups:
        picked = mask.to_numpy()
        if not picked.any():
            continue
        truth, chance = frame.loc[picked, TARGET], probability[picked]
        table.append(
            {
                "by": by,
                "group": group,
                "rows": int(picked.sum()),
                "small": bool(picked.sum() < FEWEST),
                "employed": float(truth.mean()),
                "said_employed": float((chance >= threshold).mean()),
                **{name: _number(value) for name, value in scores(truth, chance, threshold).items()},
            }
        )
    return table


def gap(table: list[dict[str, Any]], by: str, score: str) -> float:
    """The largest less the smallest `score` of the groups by `by` that are not small."""
    values = [row[score] for row in table if row["by"] == by and not row["small"] and row[score] is not None]
    return max(values) - min(values) if values else 0.0


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
