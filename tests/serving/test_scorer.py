"""All trees at once give what XGBoost's library gives for a row, bit by bit; where that is not known, there is no scorer."""

from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as arrays

from ekiben.serving.trees import handover
from ekiben.serving.trees.booster import BEFORE_LAYOUT, Booster
from ekiben.serving.trees.scorer import Scorer, scorer
from tests.serving.trees import COLUMNS, model

COVERED = {
    "reg:squarederror": {}, "reg:absoluteerror": {}, "reg:pseudohubererror": {}, "reg:squaredlogerror": {}, "reg:logistic": {},
    "reg:gamma": {}, "reg:tweedie": {}, "count:poisson": {}, "rank:pairwise": {}, "rank:ndcg": {}, "rank:map": {},
    "binary:logistic": {}, "binary:logitraw": {}, "multi:softprob": {"num_class": 4}, "multi:softmax": {"num_class": 4},
}  # fmt: skip


def rows_and_targets(objective: str, missing: float = 0.2, count: int = 400) -> tuple[Any, Any]:
    random = np.random.default_rng(5)
    rows = random.normal(size=(count, COLUMNS)).astype(np.float32)
    sums = rows.sum(axis=1)
    rows[random.random(rows.shape) < missing] = np.nan
    if objective.startswith("multi"):
        return rows, np.digitize(sums, [-2, 0, 2])
    if objective.startswith("rank") or "logi" in objective:
        return rows, (sums > 0).astype(float)
    return rows, np.abs(sums) + 0.25


def trained(objective: str, missing: float = 0.2, rounds: int = 12, **params: Any) -> tuple[Any, Any]:
    rows, targets = rows_and_targets(objective, missing)
    data = xgboost.DMatrix(rows, targets)
    if objective.startswith("rank"):
        data.set_group([len(rows) // 4] * 4)
    asked = {"objective": objective, "nthread": 1, "max_depth": 4, **COVERED.get(objective, {}), **params}
    return xgboost.train(asked, data, rounds), rows


def scorer_of(booster: Any) -> Scorer | None:
    return scorer(json.loads(booster.save_raw("json")))


def assert_same(booster: Any, found: Scorer | None, rows: Any) -> None:
    assert found is not None
    for row in rows:
        for margin in (False, True):
            expected = booster.inplace_predict(row[np.newaxis], predict_type="margin" if margin else "value")
            got = found(row, margin)
            assert (got.shape, got.dtype, got.tobytes()) == (expected.shape, expected.dtype, expected.tobytes())


def awkward(rows: Any) -> Any:
    """Rows with values that are missing, not finite, on the smallest scale, and signed zeros."""
    random = np.random.default_rng(9)
    mixed = rows[:60].copy()
    odd = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 3.4e38], np.float32)
    chosen = random.random(mixed.shape) < 0.4
    mixed[chosen] = random.choice(odd, int(chosen.sum()))
    return np.concatenate([rows[:60], mixed])


@pytest.mark.parametrize("objective", COVERED)
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_every_objective_that_is_covered(objective: str, missing: float) -> None:
    booster, rows = trained(objective, missing)
    assert_same(booster, scorer_of(booster), awkward(rows))


@pytest.mark.parametrize(
    "params",
    [
        {"max_depth": 0, "max_leaves": 64, "grow_policy": "lossguide", "min_child_weight": 0, "tree_method": "hist"},
        {"max_depth": 6, "min_child_weight": 0}, {"max_depth": 1}, {"num_parallel_tree": 3, "subsample": 0.6},
        {"base_score": 0.9}, {"gamma": 1e9}, {"tree_method": "exact"}, {"tree_method": "approx"}, {"eta": 1e-30},
    ],
    ids=str,
)  # fmt: skip
def test_trees_of_every_shape(params: dict[str, Any]) -> None:
    for objective in ("binary:logistic", "multi:softprob"):
        booster, rows = trained(objective, **params)
        assert_same(booster, scorer_of(booster), awkward(rows))


@given(row=arrays.arrays(np.float32, COLUMNS, elements=st.floats(width=32)))
@settings(max_examples=200)
def test_any_row(row: Any) -> None:
    booster = xgboost.Booster({"nthread": 1}, model_file=bytearray(model("binary")))
    assert_same(booster, scorer_of(booster), [row])


@pytest.mark.parametrize("kind", ["dart", "linear", "vectors", "categories", "outputs", "survival"])
def test_what_is_not_covered_has_no_scorer(kind: str) -> None:
    assert scorer_of(xgboost.Booster(model_file=bytearray(model(kind)))) is None


def test_trees_that_are_too_large_have_no_scorer() -> None:
    booster, _ = trained("reg:squarederror", max_depth=0, max_leaves=66, grow_policy="lossguide", min_child_weight=0)
    assert scorer_of(booster) is None
    booster, _ = trained("reg:squarederror", rounds=2000, max_depth=6, min_child_weight=0)
    assert scorer_of(booster) is None


@pytest.mark.parametrize("kept", [{}, {"learner": {}}, {"learner": 1}])
def test_another_form_of_model_has_no_scorer(kept: dict[str, Any]) -> None:
    assert scorer(kept) is None


def test_threads_do_not_share_what_they_work_in() -> None:
    booster, rows = trained("binary:logistic", rounds=200)
    found = scorer_of(booster)
    assert found is not None
    expected = booster.inplace_predict(rows)
    wrong: list[int] = []

    def ask(first: int) -> None:
        for _ in range(20):
            wrong.extend(i for i in range(first, len(rows), 4) if found(rows[i], False)[0] != expected[i])

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_booster_comes_to_use_it_and_answers_go_on_as_before() -> None:
    assert handover.loaded() is None, "it would be compared with itself"
    booster, rows = trained("binary:logistic")
    ours = Booster({"nthread": 1}, model_file=bytearray(booster.save_raw()))
    for number, row in enumerate(rows[: 3 * BEFORE_LAYOUT]):
        assert (ours._scorer is not None) == (number >= BEFORE_LAYOUT)
        one = row[np.newaxis]
        assert ours.inplace_predict(one).tobytes() == booster.inplace_predict(one).tobytes()
    with pytest.raises(ValueError, match="Feature shape mismatch"):
        ours.inplace_predict(rows[:1, :-1])
    again = bytearray(model("binary", seed=2))
    ours.load_model(again)
    assert ours._scorer is None
    assert ours.inplace_predict(rows[:1]) == xgboost.Booster(model_file=again).inplace_predict(rows[:1])
