"""JSON straight into arrays gives what pydantic gives, bit by bit, or leaves the body to it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from pydantic import Field

from ekiben.serving.floats import reader
from ekiben.serving.render import writer
from ekiben.serving.standin.annotations import DType, Shape
from ekiben.serving.standin.descriptors import IODescriptor

Rows = Annotated[np.ndarray, DType("float32"), Shape((-1, 3))]


def one(rows: Rows) -> None: ...
def two(left: Rows, right: Annotated[np.ndarray, DType("float64")]) -> None: ...
def default(rows: Rows = None) -> None: ...  # type: ignore[assignment]
def whole(rows: Annotated[np.ndarray, DType("int64")]) -> None: ...
def undeclared(rows: np.ndarray) -> None: ...
def more(rows: Rows, name: str) -> None: ...
def bounded(rows: Annotated[np.ndarray, DType("float32"), Field(description="measurements")]) -> None: ...
def alone(rows: Rows, /) -> None: ...


class Own(IODescriptor):
    rows: Rows


def bits(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: (array.shape, array.dtype, array.tobytes()) for name, array in arguments.items()}


@pytest.mark.parametrize("method", [whole, undeclared, more, alone])
def test_other_methods_are_left_alone(method: Any) -> None:
    assert reader(IODescriptor.from_input(method)) is None


def test_a_model_of_the_services_own_is_left_alone() -> None:
    assert reader(Own) is None


NUMBERS = st.one_of(
    st.floats(),
    st.integers(),
    st.booleans(),
    st.none(),
    st.sampled_from(["1.5", "x", "", "nan", 2**63, 2**64, 10**400, -(2**70)]),
)
JSONS = st.recursive(NUMBERS, lambda inner: st.lists(inner, max_size=4), max_leaves=24)
ROWS = st.lists(st.lists(NUMBERS, min_size=3, max_size=3), max_size=4)


@given(
    body=st.dictionaries(st.sampled_from(["left", "right", "rows", "é"]), st.one_of(ROWS, JSONS), max_size=3),
    gap=st.booleans(),
)
@settings(max_examples=500)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_what_is_read_is_what_pydantic_reads(body: dict[str, Any], gap: bool) -> None:
    text = json.dumps(body, indent=1 if gap else None).encode()
    for method in (one, two, default):
        spec = IODescriptor.from_input(method)
        read = reader(spec)
        assert read is not None
        given = read(text)
        if given is not None:
            assert bits(given) == bits(spec.__pydantic_validator__.validate_json(text).__dict__)


@pytest.mark.parametrize(
    "text",
    [b"", b"{}", b"[]", b"1", b'"rows"', b"null", b"{", b'{"rows": [[1, 2]]}', b'{"rows": [[1, 2, "x"]]}', b'{"rows": NaN}',
     b'{"rows": [[1,2,3]], "more": 1}', b'{"rows": "\\ud800"}', b"\xff", b'{"rows": ' + b"[" * 5000 + b"]" * 5000 + b"}",
     b'{"rows": {"a": 1}}'],
)  # fmt: skip
def test_what_is_odd_is_left_to_pydantic(text: bytes) -> None:
    read = reader(IODescriptor.from_input(one))
    assert read is not None
    assert read(text) is None
    assert read(bytearray(text)) is None


def test_the_last_of_two_equal_names_counts() -> None:
    spec, text = IODescriptor.from_input(one), b'{"rows": [[1,2,3]], "rows": [[4,5,6]]}'
    read = reader(spec)
    assert read is not None
    found = read(text)
    assert found is not None
    assert bits(found) == bits(spec.__pydantic_validator__.validate_json(text).__dict__)
    assert found["rows"].tolist() == [[4, 5, 6]]


@pytest.mark.parametrize("kind", [np.ndarray, Annotated[np.ndarray, DType("float32"), Shape((-1,))]])
@pytest.mark.parametrize("value", [np.array([0.1, -0.0], np.float32), np.arange(40.0).reshape(8, 5), np.array(7)])
def test_an_array_that_a_method_gives_is_written_at_once(kind: Any, value: Any) -> None:
    def method() -> Any: ...

    method.__annotations__["return"] = kind
    made = writer(IODescriptor.from_output(method))
    expected = made.json(value)
    made._validator = None  # what costs more than the rest of it is not asked
    assert made.body(value) == (b"application/json", expected)
    assert json.loads(expected) == value.tolist()
