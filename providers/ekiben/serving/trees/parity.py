"""Does the stand-in answer as xgboost itself does? Compared bit by bit, on rows that are made to find a difference.

`python -c "... parity.main([FOLDER, MODEL, ...])"` in the environment that is asked about prints the verdict as JSON.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import KIND, handover, library

__all__ = ["BOUND", "compare", "main", "rows_for"]

BOUND = 0.0  # Equal, bit by bit.
UNLIKE = sys.float_info.max  # Of answers that no number compares: other shapes, or only one of the two refuses.
ROWS = 512
SINGLE_ROWS = 64
SEED = 20260101
EXTREMES = (math.nan, 0.0, -0.0, 1.0, -1.0, 1e-40, 3.4e38, -3.4e38)
FROM_MATRIX: tuple[dict[str, Any], ...] = (
    {}, {"output_margin": True}, {"pred_contribs": True}, {"pred_leaf": True}, {"iteration_range": (0, 1)},
    {"strict_shape": True},
)  # fmt: skip
FROM_ARRAY: tuple[dict[str, Any], ...] = ({}, {"predict_type": "margin"}, {"missing": 0.0})


def compare(folder: Path, models: Iterable[str]) -> dict[str, Any]:
    """The verdict on these models below `folder`: kind, bound, max_difference, rows, library, models.

    Raises what xgboost raises for a file that is no model.
    """
    import xgboost

    from .booster import Booster
    from .matrix import DMatrix

    names, worst, count = sorted(models), 0.0, 0
    for name in names:
        path = str(folder / name)
        rows = rows_for(xgboost.Booster(model_file=path))
        count += len(rows)
        theirs, ours = _answers(xgboost.Booster, xgboost.DMatrix, path, rows), _answers(Booster, DMatrix, path, rows)
        worst = max(worst, *(_difference(*pair) for pair in zip(theirs, ours, strict=True)))
    if handover.loaded() is not None:
        worst = UNLIKE  # It has compared xgboost with itself.
    return {
        "kind": KIND, "bound": BOUND, "max_difference": worst, "rows": count,
        "library": f"xgboost {library.load().found.version}", "models": names,
    }  # fmt: skip


def _answers(booster_of: Any, matrix_of: Any, path: str, rows: Any) -> Iterator[Any]:
    """All that this Booster and this DMatrix make of the rows: an array each time, or why not."""
    booster = booster_of({"nthread": 1}, model_file=path)
    names = booster.feature_names
    yield np.array([booster.num_features(), booster.num_boosted_rounds()])
    singles = [rows[i : i + 1] for i in range(len(rows))]
    for data in (rows, rows.astype(np.float64), *singles[:SINGLE_ROWS]):
        for how in FROM_MATRIX:
            yield _outcome(
                lambda x, how: booster.predict(matrix_of(x, feature_names=names, nthread=1), **how), data, how
            )
        for how in FROM_ARRAY:
            yield _outcome(lambda x, how: booster.inplace_predict(x, **how), data, how)
    for data in singles[SINGLE_ROWS:]:
        yield _outcome(lambda x, how: booster.inplace_predict(x, **how), data, {})


def rows_for(booster: Any) -> Any:
    """Rows that go every way: at, just below and just above the model's own thresholds, missing, extreme, and none of these."""
    random = np.random.default_rng(SEED)
    columns = booster.num_features()
    pools: list[list[float]] = [list(EXTREMES) for _ in range(columns)]
    for tree in json.loads(booster.save_raw("json"))["learner"]["gradient_booster"].get("model", {}).get("trees", []):
        for column, left, at in zip(
            tree["split_indices"], tree["left_children"], tree["split_conditions"], strict=True
        ):
            if left != -1 and len(pools[column]) < 4096:
                at = np.float32(at)
                pools[column] += [
                    float(at),
                    float(np.nextafter(at, np.float32(-np.inf))),
                    float(np.nextafter(at, np.float32(np.inf))),
                ]
    values = np.empty((ROWS, columns), np.float32)
    for column, pool in enumerate(pools):
        ordinary = [value for value in pool if math.isfinite(value) and abs(value) < 1e30]
        values[:, column] = random.choice(np.array(pool, np.float32), ROWS)
        between = random.uniform(min(ordinary) - 1, max(ordinary) + 1, ROWS)
        values[:, column] = np.where(random.random(ROWS) < 0.3, between, values[:, column])
        if (booster.feature_types or [""] * columns)[column] == "c":
            values[:, column] = random.integers(0, 64, ROWS)
    return values


def _difference(expected: Any, got: Any) -> float:
    """The largest difference of two answers: 0 when both are equal bit by bit, or both refuse."""
    if isinstance(expected, str) or isinstance(got, str):
        return 0.0 if isinstance(expected, str) and isinstance(got, str) else UNLIKE
    if expected.shape != got.shape or expected.dtype != got.dtype:
        return UNLIKE
    if expected.tobytes() == got.tobytes():
        return 0.0
    apart = np.abs(expected.astype(np.float64) - got.astype(np.float64))
    return float(np.where(np.isnan(expected) & np.isnan(got), 0.0, np.nan_to_num(apart, nan=UNLIKE)).max())


def _outcome(predict: Callable[..., Any], data: Any, how: dict[str, Any]) -> Any:
    try:
        return np.ascontiguousarray(predict(data, how))
    except ValueError as error:
        return str(error)


def main(arguments: list[str]) -> None:
    """Print the verdict, last line of what is said, without taking the time of those who serve."""
    os.nice(10)
    verdict = compare(Path(arguments[0]), arguments[1:])
    sys.stdout.write(json.dumps(verdict) + "\n")
