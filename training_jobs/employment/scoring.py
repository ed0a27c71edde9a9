"""From a saved model to an answer: probability, decision, reasons. The same file in the training job and in the service.

A test compares the two copies: what the job writes down as the expected answer is what the service must say.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import xgboost

REASONS = 3


class Model:
    """The model in `folder`: model.ubj, the trees; model.json, the threshold and what columns and codes are called."""

    def __init__(self, folder: Path) -> None:
        self.card: dict[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        self.columns: list[str] = [column["name"] for column in self.card["columns"]]
        self.booster = xgboost.Booster({"nthread": 1}, model_file=folder / "model.ubj")

    def answer(self, rows: list[dict[str, int]]) -> list[dict[str, Any]]:
        """One answer a row. A contribution is in log-odds, against the average person; the sum of all gives the probability."""
        values = np.array([[row[column] for column in self.columns] for row in rows], np.float32)
        matrix = xgboost.DMatrix(values, feature_names=self.columns, nthread=1)
        probabilities = self.booster.predict(matrix)
        contributions = self.booster.predict(matrix, pred_contribs=True)[:, :-1]
        return [
            {
                "probability": float(probability),
                "decision": self.card["decisions"][int(probability >= self.card["threshold"])],
                "reasons": self._reasons(row, parts),
            }
            for row, probability, parts in zip(rows, probabilities, contributions, strict=True)
        ]

    def _reasons(self, row: dict[str, int], parts: np.ndarray) -> list[dict[str, Any]]:
        reasons = []
        for i in np.argsort(-np.abs(parts), kind="stable")[:REASONS]:
            column, value = self.card["columns"][i], row[self.columns[i]]
            words = column["codes"].get(str(value), str(value))
            effect = "raises" if parts[i] > 0 else "lowers"
            reasons.append(
                {
                    "column": column["name"],
                    "value": value,
                    "contribution": float(parts[i]),
                    "text": f"{column['title']}: {words} ({effect} the chance)",
                }
            )
        return reasons
