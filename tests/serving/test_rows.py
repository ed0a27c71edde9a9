"""Rows in are rows out: whatever is joined comes back to whom it came from, and nothing of it is changed by the others."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from ekiben.serving import rows
from ekiben.serving.rows import RowsError

DTYPES = (np.float64, np.int32, np.bool_, np.dtype("<U3"))
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3), st.lists(st.integers(), max_size=2))


@st.composite
def arrays(draw: st.DrawFn) -> tuple[list[np.ndarray[Any, Any]], int]:
    """Of one kind, some empty, and a dimension of theirs, from the front or from the back."""
    shape = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
    dim = draw(st.integers(-len(shape), len(shape) - 1))
    dtype = draw(st.sampled_from(DTYPES))
    found = []
    for size in draw(st.lists(st.integers(0, 4), min_size=1, max_size=6)):
        own = list(shape)
        own[dim] = size
        found.append(draw(hnp.arrays(dtype, tuple(own))))
    return found, dim


@given(arrays())
def test_arrays_along_any_dimension(made: tuple[list[np.ndarray[Any, Any]], int]) -> None:
    values, dim = made
    counts = [rows.count(each, dim) for each in values]
    assert counts == [each.shape[dim] for each in values]
    assert len({rows.kind(each, dim) for each in values}) == 1
    joined = rows.join(values, dim)
    assert joined.dtype == values[0].dtype
    assert rows.count(joined, dim) == sum(filter(None, counts))
    for back, value in zip(rows.split(joined, counts, dim), values, strict=True):
        np.testing.assert_array_equal(back, value)
        assert back.dtype == value.dtype


@given(st.lists(st.lists(VALUES, max_size=4), min_size=1, max_size=6))
def test_lists_of_anything(values: list[list[Any]]) -> None:
    before = [list(each) for each in values]
    counts = [len(each) for each in values]
    joined = rows.join(values, 0)
    assert len(joined) == sum(counts)
    assert rows.split(joined, counts, 0) == before
    joined.clear()  # what a method does with its argument is not done to a request's own
    assert len(values) == 1 or values == before


@given(
    st.lists(st.lists(st.tuples(st.integers(-9, 9), st.floats(allow_nan=False)), max_size=4), min_size=1, max_size=5)
)
def test_frames(given: list[list[tuple[int, float]]]) -> None:
    values = [
        pd.DataFrame(each, columns=["a", "b"], index=[f"row {number}" for number in range(len(each))]).astype(
            {"a": "int64", "b": "float64"}
        )
        for each in given
    ]
    counts = [rows.count(each, 0) for each in values]
    assert len({rows.kind(each, 0) for each in values}) == 1
    joined = rows.join(values, 0)
    assert list(joined.index) == list(range(sum(filter(None, counts))))
    assert joined.dtypes.tolist() == values[0].dtypes.tolist()
    for answer in (joined, joined["b"]):
        for back, value in zip(rows.split(answer, counts, 0), values, strict=True):
            expected = value if answer is joined else value["b"]
            assert back.to_numpy().tolist() == expected.to_numpy().tolist()
            assert list(back.index) == list(range(len(value)))


@given(
    st.one_of(arrays().map(lambda made: rows.join(*made)), st.lists(VALUES), st.text(), st.integers(), st.none()),
    st.lists(st.integers(0, 5), min_size=1, max_size=5),
    st.integers(-3, 3),
)
def test_a_wrong_number_of_rows_is_never_given_to_anybody(value: Any, counts: list[int], dim: int) -> None:
    try:
        parts = rows.split(value, counts, dim)
    except RowsError:
        return
    assert [rows.count(each, dim) for each in parts] == counts
    assert sum(counts) == rows.count(value, dim)


@pytest.mark.parametrize(
    ("one", "other", "joined"),
    [
        ([1], [2, 3], True),
        ([1], [1.5], False),
        ([1, 2.5], [1], False),
        ([[1, 2]], [[3, 4]], True),
        ([[1, 2]], [[3]], False),
        ([[1, 2]], [[1.5, 2]], False),
        ([{"a": 1}], [{"a": 2}], True),
        ([{"a": 1}], [{"b": 2}], False),
        ([np.zeros(2)], [np.ones(2)], True),
        ([np.zeros(2)], [np.ones(3)], False),
        ([], [1], False),
        (np.zeros((1, 2)), np.zeros((5, 2)), True),
        (np.zeros((1, 2)), np.zeros((1, 3)), False),
        (np.zeros(2), np.zeros(2, "int64"), False),
        (np.array(["a"]), np.array(["abc"]), True),
        (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [2, 3]}), True),
        (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [1.5]}), False),
        (pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]}), False),
        (pd.DataFrame({"a": [1], "b": [1]}), pd.DataFrame({"b": [1], "a": [1]}), False),
        (3, 3, True),
        (3, 4, False),
        (1, True, False),
        (None, None, True),
        ({"a": 1}, {"a": 1}, False),
    ],
)
def test_only_what_does_not_change_the_others_is_joined(one: Any, other: Any, joined: bool) -> None:
    assert (rows.kind(one, 0) == rows.kind(other, 0)) is joined


@pytest.mark.parametrize(
    ("value", "dim", "why"),
    [
        ([1], 1, "a list has no rows along dimension 1"),
        ([1], -1, "a list has no rows along dimension -1"),
        (pd.DataFrame({"a": [1]}), 1, "a DataFrame has no rows along dimension 1"),
        (np.array(3), 0, "an array of 0 dimensions has no rows along dimension 0"),
        (np.zeros(3), -2, "an array of 1 dimensions has no rows along dimension -2"),
    ],
)
def test_without_such_a_dimension_there_are_no_rows(value: Any, dim: int, why: str) -> None:
    with pytest.raises(RowsError, match=why):
        rows.count(value, dim)


@pytest.mark.parametrize("answer", [None, 3, "abc", b"abc", {"a": 1, "b": 2, "c": 3}, {1, 2, 3}, iter([1, 2, 3])])
def test_an_answer_without_rows_is_none(answer: Any) -> None:
    with pytest.raises(RowsError, match="has no rows"):
        rows.split(answer, [1, 2], 0)


def test_an_answer_of_another_kind_is_split_where_it_has_slices() -> None:
    assert rows.split((1, 2, 3), [1, 0, 2], 0) == [(1,), (), (2, 3)]
    with pytest.raises(RowsError, match="along dimension 1"):
        rows.split((1, 2, 3), [3], 1)
    with pytest.raises(RowsError, match="cannot be joined"):
        rows.join([range(2), range(3)], 0)


@pytest.mark.parametrize(
    ("annotation", "dim", "found"),
    [
        (list, 0, True),
        (list[int], 0, True),
        (list[int], 1, False),
        (list[int] | None, 0, True),
        (Annotated[list[str], "more"], 0, True),
        (Any, 1, True),
        (int, 0, False),
        (dict[str, list[int]], 0, False),
        (tuple[int, ...], 0, False),
        (str | int, 0, False),
    ],
)
def test_an_annotation_tells_whether_there_may_be_rows(annotation: Any, dim: int, found: bool) -> None:
    assert rows.may_have_rows(annotation, (), dim) is found
