"""The stand-in for xgboost answers as xgboost does: the same bits, the same errors."""

from __future__ import annotations

import json
import math
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xgboost
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as arrays

from ekiben.serving.trees import handover
from ekiben.serving.trees.booster import Booster
from ekiben.serving.trees.matrix import DMatrix
from ekiben.serving.trees.scorer import scorer
from tests.serving.trees import COLUMNS, KINDS, model

LIMITS = settings(max_examples=25, deadline=None)
FROM_MATRIX: list[dict[str, Any]] = [
    {}, {"output_margin": True}, {"pred_contribs": True}, {"pred_contribs": True, "approx_contribs": True},
    {"pred_interactions": True}, {"pred_leaf": True}, {"iteration_range": (2, 5)}, {"iteration_range": (0, 99)},
    {"strict_shape": True}, {"training": True}, {"output_margin": True, "pred_leaf": True}, {"validate_features": False},
]  # fmt: skip
FROM_ARRAY: list[dict[str, Any]] = [
    {}, {"predict_type": "margin"}, {"iteration_range": (2, 5)}, {"iteration_range": (5, 2)}, {"missing": 0.0},
    {"missing": -1}, {"strict_shape": True}, {"validate_features": False},
]  # fmt: skip


@pytest.fixture(autouse=True)
def _by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the real package would take over, xgboost would be compared with itself."""

    def refuse(why: str, *, lasting: bool = False) -> None:
        raise AssertionError(f"handed over for {why}")

    assert handover.loaded() is None
    monkeypatch.setattr(handover, "real", refuse)


def pair(kind: str, **how: Any) -> tuple[Any, Any]:
    raw = bytearray(model(kind, **how))
    return xgboost.Booster({"nthread": 1}, model_file=raw), Booster({"nthread": 1}, model_file=raw)


def outcome(call: Callable[[], Any]) -> Any:
    """The answer's shape, type and bytes; or the kind of error and what it says, without where in the library it was raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            value = call()
        except AssertionError:
            raise
        except Exception as error:
            said = [str(each).partition("Stack trace")[0].partition("]")[2] or str(each) for each in error.args]
            return type(error).__name__, said
    if not isinstance(value, np.ndarray):
        return value
    assert value.flags.owndata or value.base.flags.owndata
    assert value.flags.writeable
    return value.shape, value.dtype, value.tobytes()


def assert_same(kind: str, rows: Any, **how: Any) -> None:
    theirs, ours = pair(kind, **how)
    fits = np.ndim(rows) == 2 and np.shape(rows)[1] == COLUMNS  # other names than columns are for the real package
    names = theirs.feature_names if fits else None
    for asked in FROM_ARRAY:
        assert outcome(lambda a=asked: theirs.inplace_predict(rows, **a)) == outcome(
            lambda a=asked: ours.inplace_predict(rows, **a)
        ), asked
    for asked in FROM_MATRIX if getattr(rows, "ndim", 2) == 2 else []:  # the real package refuses what is no table
        for made in ({}, {"missing": 0.0}):
            expected = outcome(
                lambda a=asked, m=made: theirs.predict(xgboost.DMatrix(rows, feature_names=names, nthread=1, **m), **a)
            )
            got = outcome(lambda a=asked, m=made: ours.predict(DMatrix(rows, feature_names=names, nthread=1, **m), **a))
            assert expected == got, (asked, made)


def some_rows(count: int, dtype: Any = np.float32, seed: int = 3) -> Any:
    random = np.random.default_rng(seed)
    rows = random.normal(size=(count, COLUMNS)) * 3
    if np.dtype(dtype).kind == "f":
        rows[random.random(rows.shape) < 0.2] = np.nan
    rows[:, 0] = random.integers(0, 9, count)
    return rows.astype(dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_every_kind(kind: str) -> None:
    for count in (1, 65):
        assert_same(kind, some_rows(count))


@pytest.mark.parametrize(
    "dtype", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", ">f4", ">i4"], ids=str
)
def test_numbers_of_every_type(dtype: str) -> None:
    for count in (1, 3):
        assert_same("binary", np.nan_to_num(np.abs(some_rows(count))).round().clip(0, 100).astype(dtype))


def test_arrays_however_they_lie() -> None:
    rows = some_rows(20)
    unaligned = np.frombuffer(b"\0" + rows.tobytes(), np.uint8)[1:].view(np.float32).reshape(rows.shape)
    read_only = rows.copy()
    read_only.flags.writeable = False
    for each in (
        rows[::2], rows[:, ::-1], np.asfortranarray(rows), rows[5:6], np.broadcast_to(rows[:1], (4, COLUMNS)), unaligned,
        read_only, rows.tolist(), tuple(map(tuple, rows.tolist())), [[1] * COLUMNS], [[True] * COLUMNS],
    ):  # fmt: skip
        assert_same("binary", each)


@pytest.mark.filterwarnings("ignore:.*Empty dataset")
@pytest.mark.parametrize("kind", ["binary", "classes", "named", "dart"])
def test_rows_that_do_not_fit(kind: str) -> None:
    for shape in ((0, COLUMNS), (1, COLUMNS + 1), (1, COLUMNS - 1), (2, 0), (COLUMNS,), (3,), (0,)):
        assert_same(kind, np.ones(shape, np.float32))


@pytest.mark.parametrize("value", [math.inf, -math.inf, 3.5e38, -1e300, 1e-46, 5e-324, -0.0, 2.0**53 + 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_ends_of_the_number_line(value: float, dtype: Any) -> None:
    with np.errstate(over="ignore"):
        rows = np.full((2, COLUMNS), 0.5, dtype)
        rows[1, 2] = value
    assert_same("binary", rows)
    assert_same("binary", rows[1:])


@LIMITS
@given(
    kind=st.sampled_from(["binary", "classes", "regression", "forest", "dart", "vectors", "categories"]),
    depth=st.integers(1, 8),
    rounds=st.integers(6, 30),  # xgboost itself crashes on a range of rounds that begins past the last one
    seed=st.integers(0, 3),
    rows=arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.just(COLUMNS)),
        elements=st.floats(-8, 8, width=32) | st.sampled_from([math.nan, 0.0, -0.0, 1.0, 2.0**31, 3e38]),
    ),
)
def test_any_tree_any_row(kind: str, depth: int, rounds: int, seed: int, rows: Any) -> None:
    assert_same(kind, rows, depth=depth, rounds=rounds, seed=seed)


@pytest.mark.parametrize(
    "left",
    [
        lambda column, node: True,
        lambda column, node: False,
        lambda column, node: column % 2,
        lambda column, node: node % 2,
    ],
    ids=["left", "right", "by-column", "by-node"],
)
@pytest.mark.parametrize("columns", [COLUMNS, 2])
def test_where_what_is_missing_goes(left: Callable[[int, int], int], columns: int) -> None:
    """XGBoost chooses a side for each node; a scorer need not care which."""
    told = json.loads(xgboost.Booster(model_file=bytearray(model("binary"))).save_raw("json"))
    for tree in told["learner"]["gradient_booster"]["model"]["trees"]:
        split = tree["split_indices"] = [column % columns for column in tree["split_indices"]]
        tree["default_left"] = [int(left(column, node)) for node, column in enumerate(split)]
    told["learner"]["learner_model_param"]["num_feature"] = str(columns)
    made = scorer(told)
    assert made is not None
    theirs = xgboost.Booster(model_file=bytearray(json.dumps(told).encode()))
    rows = np.concatenate([some_rows(60), np.full((1, COLUMNS), np.nan, np.float32)])[:, :columns].copy()
    rows[:2, 0] = np.inf, -np.inf
    for margin, kind in ((False, "value"), (True, "margin")):
        expected = theirs.inplace_predict(rows, predict_type=kind)
        assert np.concatenate([made(row, margin) for row in rows]).tobytes() == expected.tobytes()


def test_frames_of_plain_numbers() -> None:
    theirs, ours = pair("named")
    rows = np.abs(np.nan_to_num(some_rows(5)))
    names = theirs.feature_names
    mixed = pd.DataFrame(rows, columns=names).astype({"c": "int8", "d": "int64", "e": "float64", "f": "uint16"})
    huge = mixed.assign(d=np.array([2**53 + 1, 2**62 + 2**38 + 1, -(2**60) - 1, 0, 1]))
    for frame in (pd.DataFrame(rows, columns=names), mixed, mixed.assign(c=True), huge, mixed[:1], mixed[:0]):
        assert outcome(lambda f=frame: theirs.inplace_predict(f)) == outcome(lambda f=frame: ours.inplace_predict(f))
        assert outcome(lambda f=frame: theirs.predict(xgboost.DMatrix(f))) == outcome(
            lambda f=frame: ours.predict(DMatrix(f))
        )
    for frame in (mixed[names[::-1]], mixed.rename(columns={"c": "ç"}), mixed.drop(columns="c")):
        expected, got = (outcome(lambda b=b, f=frame: b.inplace_predict(f)) for b in (theirs, ours))
        assert expected == got
        assert expected[0] == "ValueError"


def test_names_are_compared_as_xgboost_does() -> None:
    theirs, ours = pair("named")
    rows = some_rows(1)
    names = theirs.feature_names
    for given_names in (names, None, names[::-1], [*names[:-1], "x"]):
        assert outcome(lambda n=given_names: theirs.predict(xgboost.DMatrix(rows, feature_names=n))) == outcome(
            lambda n=given_names: ours.predict(DMatrix(rows, feature_names=n))
        )
    assert outcome(lambda: theirs.predict(rows))[0] == outcome(lambda: ours.predict(rows))[0] == "TypeError"


@pytest.mark.parametrize("kind", ["binary", "named", "categories", "classes", "linear"])
def test_what_a_booster_says_of_itself(kind: str) -> None:
    theirs, ours = pair(kind)
    for name in ("feature_names", "feature_types"):
        assert getattr(theirs, name) == getattr(ours, name)
    for name in ("num_features", "num_boosted_rounds", "attributes", "save_raw", "save_config"):
        assert getattr(theirs, name)() == getattr(ours, name)(), name
    assert ours.save_raw("json") == theirs.save_raw("json")
    assert not hasattr(ours, "best_iteration")
    assert not hasattr(ours, "best_score")
    assert ours.attr("none") is None


def test_early_stopping_and_attributes() -> None:
    trained = xgboost.Booster(model_file=bytearray(model("binary")))
    trained.set_attr(best_iteration=4, best_score=0.25, grüße="日本")
    ours = Booster(model_file=trained.save_raw())
    assert (ours.best_iteration, ours.best_score) == (4, 0.25)
    assert ours.attributes() == trained.attributes()


def test_a_matrix_keeps_the_rows_it_was_given() -> None:
    theirs, ours = pair("binary")
    for dtype in (np.float32, np.float64):
        rows = np.nan_to_num(some_rows(4)).astype(dtype)
        expected = theirs.predict(xgboost.DMatrix(rows.copy()))
        matrix = DMatrix(rows)
        rows[:] = 9
        assert (ours.predict(matrix) == expected).all()
        assert (ours.predict(matrix, pred_contribs=True).shape, matrix.num_row(), matrix.num_col()) == (
            (4, 8),
            4,
            COLUMNS,
        )


def test_an_answer_is_its_callers_own() -> None:
    _, ours = pair("binary")
    first = ours.inplace_predict(some_rows(3))
    kept = first.copy()
    ours.inplace_predict(some_rows(3, seed=9))
    assert (first == kept).all()


def test_parameters_reach_the_library() -> None:
    raw = bytearray(model("binary"))
    for params in ({"nthread": 1, "base_score": 0.5}, [("nthread", 1)], None, {"verbosity": 0, "seed": None}):
        assert Booster(params, model_file=raw).save_config() == xgboost.Booster(params, model_file=raw).save_config()
    theirs, ours = pair("binary")
    for booster in (theirs, ours):
        booster.set_param({"objective": "binary:hinge"})
        booster.set_param("nthread", 2)
    assert ours.save_config() == theirs.save_config()
    expected = outcome(lambda: theirs.inplace_predict(some_rows(9)))
    assert outcome(lambda: ours.inplace_predict(some_rows(9))) == expected


@pytest.mark.parametrize("raw", [b"", b"{}", b"{L", b"nonsense", b"\0" * 64], ids=repr)
def test_a_file_that_is_no_model(raw: bytes, tmp_path: Any) -> None:
    path = tmp_path / "model.ubj"
    path.write_bytes(raw)
    for file in (path, str(path), bytearray(raw), tmp_path / "absent.ubj"):
        if isinstance(file, bytearray) and len(file) < 2:
            continue  # xgboost reads past the end of these
        expected, got = (outcome(lambda c=c, f=file: c(model_file=f)) for c in (xgboost.Booster, Booster))
        assert expected[0] == got[0] == "XGBoostError"
        assert "absent" not in str(file) or got == expected


def test_a_model_loaded_over_another_is_the_new_one() -> None:
    theirs, ours = pair("binary")
    ours.inplace_predict(some_rows(1))
    for booster in (theirs, ours):
        booster.load_model(bytearray(model("classes")))
    assert outcome(lambda: theirs.inplace_predict(some_rows(3))) == outcome(lambda: ours.inplace_predict(some_rows(3)))


def test_many_threads_on_one_booster() -> None:
    theirs, ours = pair("classes", rounds=30)
    rows = some_rows(64)
    expected = theirs.inplace_predict(rows)
    contributions = theirs.predict(xgboost.DMatrix(rows), pred_contribs=True)
    shared, wrong = DMatrix(rows), []

    def ask(number: int) -> None:
        for i in range(200):
            at = (number * 7 + i) % 64
            wrong.extend(
                at
                for same in (
                    (ours.inplace_predict(rows[at : at + 1]) == expected[at]).all(),
                    (ours.inplace_predict(rows) == expected).all(),
                    (ours.predict(DMatrix(rows[at : at + 1])) == expected[at]).all(),
                    i % 20 or (ours.predict(shared, pred_contribs=True) == contributions).all(),
                )
                if not same
            )

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
