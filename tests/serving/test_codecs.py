"""The codecs by themselves: Arrow, NumPy files, raw tensors, the tensors of the Open Inference Protocol."""

from __future__ import annotations

import json
import struct
import sys
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as arrays_of
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from ekiben.serving import arrays, arrow, contents, tensors
from ekiben.serving.columns import named
from ekiben.serving.standin.annotations import TensorSchema
from ekiben.serving.standin.exceptions import BadInput

from .conftest import ipc

PLAIN = st.sampled_from(arrays.PLAIN).map(np.dtype)
ARRAYS = PLAIN.flatmap(
    lambda dtype: arrays_of.arrays(dtype, arrays_of.array_shapes(min_dims=0, min_side=0, max_dims=5))
)


def same(found: np.ndarray, given: np.ndarray) -> bool:
    return (found.dtype, found.shape, found.tobytes()) == (
        given.dtype,
        given.shape,
        np.ascontiguousarray(given).tobytes(),
    )


@settings(max_examples=200, deadline=None)
@given(ARRAYS, st.booleans())
def test_arrays_come_back_bit_for_bit(array: np.ndarray, turned: bool) -> None:
    array = array.T if turned else array
    anything = TensorSchema("numpy-array")
    kind, body = arrays.tensor(array)
    said = contents.parameters(kind)
    assert same(arrays.of_tensor(body, said["dtype"], said["shape"], anything), array)
    found = arrays.of_npy(arrays.npy(array)[1])
    assert same(found, array)
    assert found.flags.writeable
    if array.ndim == 1 or (array.ndim > 1 and array.dtype != bool and 0 not in array.shape):
        assert same(arrow.read(arrow.written(array, file=turned), file=turned).array("output"), array)


@settings(max_examples=200, deadline=None)
@given(ARRAYS, PLAIN)
def test_a_cast_keeps_the_values_or_is_refused(array: np.ndarray, dtype: np.dtype[Any]) -> None:
    try:
        found = arrays.cast(array, dtype, "x")
    except BadInput:
        return
    assert (found.dtype, found.shape) == (dtype, array.shape)
    if dtype.kind in "iu":
        assert found.tolist() == [int(x) for x in array] if array.ndim == 1 else np.array_equal(found, array)
    elif dtype.kind == "f":
        assert np.array_equal(np.isfinite(found), np.isfinite(array))


def test_columns_that_share_their_bytes_are_bounded() -> None:
    """Each buffer of a record batch is where its metadata says: here all of them are in one place."""
    count, rows = 100, 10_000
    body = bytearray(ipc(pa.table({f"c{number}": np.arange(rows) + number for number in range(count)})))
    whole = arrow.read(bytes(body), file=False)
    assert whole.array("c99")[-1] == rows + 98
    size = rows * 8
    buffers = [struct.pack("<qqqq", at * size, 0, at * size, size) for at in range(count)]
    found = [bytes(body).find(each) for each in buffers]
    assert min(found) > 0
    for at in found:
        struct.pack_into("<qqqq", body, at, 0, 0, 0, size)
    length_at = bytes(body).find(struct.pack("<q", count * size))
    struct.pack_into("<q", body, length_at, size)
    with pytest.raises(BadInput, match="larger than the content"):
        arrow.read(bytes(body[: -(count - 1) * size - 8]), file=False)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_arrow_with_some_bytes_changed_is_read_or_refused(data: st.DataObject) -> None:
    table = pa.table(
        {
            "a": [1, 2, None],
            "b": ["x", "y", "z"],
            "c": [[1], [2], [3]],
            "d": pa.array(["a", "b", "a"]).dictionary_encode(),
        }
    )
    file = data.draw(st.booleans())
    body = bytearray(ipc(table, file=file))
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(body) - 1), st.integers(0, 255)), max_size=4)):
        body[at] = value
    body = body[: data.draw(st.integers(0, len(body)))] if data.draw(st.booleans()) else body
    try:
        found = arrow.read(bytes(body), file=file)
        found.frame(found.names)
        found.rows(found.names)
        for name in found.names:
            found.array(name)
    except BadInput:
        pass


def test_an_old_pyarrow_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["pyarrow"], "__version__", "14.0.0")
    with pytest.raises(Exception, match="14.0.1 or later"):
        arrow.read(b"", file=False)


REAL = {"allow_nan": False, "allow_infinity": False}
FINITE = PLAIN.flatmap(
    lambda dtype: arrays_of.arrays(dtype, arrays_of.array_shapes(), elements=REAL if dtype.kind == "f" else None)
)


def request_of(array: Any, *, binary: bool) -> tuple[bytes, int | None]:
    """An answer's outputs are written as a request's inputs are."""
    body, length = tensors.answered({}, [("x", array, binary)])
    turned = body[:length].replace(b'{,"outputs"', b'{"inputs"').replace(b'"outputs"', b'"inputs"', 1)
    return turned + body[len(body) if length is None else length :], None if length is None else len(turned)


@settings(max_examples=200, deadline=None)
@given(ARRAYS)
def test_arrays_come_back_bit_for_bit_as_bytes(array: np.ndarray) -> None:
    found = tensors.read(*request_of(array, binary=True)).tensors["x"].data
    assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())


@settings(max_examples=200, deadline=None)
@given(FINITE)
def test_arrays_come_back_as_json(array: np.ndarray) -> None:
    found = tensors.read(*request_of(array, binary=False)).tensors["x"].data
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary()))
def test_bytes_are_as_tritons_client_has_them(elements: list[bytes]) -> None:
    data = tensors.joined(elements)
    assert tensors.split(data, "x") == elements
    theirs = serialize_byte_tensor(np.array([*elements, b"!"], object)[:-1])
    assert data == (theirs.item() if theirs.size else b"")
    assert deserialize_bytes_tensor(data).tolist() == elements


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_comes_is_read_or_refused(data: st.DataObject) -> None:
    if data.draw(st.booleans()):
        body, length = request_of(data.draw(ARRAYS), binary=True)
        cut = data.draw(st.integers(0, len(body)))
        body = body[:cut] + data.draw(st.binary(max_size=8)) + body[cut + data.draw(st.integers(0, 8)) :]
    else:
        scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
        anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=6)
        fields = st.fixed_dictionaries({}, optional={
            "name": st.just("x") | anything, "datatype": st.sampled_from([*tensors.DATATYPES, "BYTES"]) | anything,
            "shape": st.lists(st.integers(-1, 4), max_size=3) | anything, "data": anything,
            "parameters": st.just({"binary_data_size": 4}) | anything,
        })  # fmt: skip
        body = json.dumps({"inputs": [data.draw(fields)], "outputs": data.draw(anything)}).encode()
        length = data.draw(st.none() | st.integers(0, len(body) + 1))
    try:
        found = tensors.read(body, length)
    except BadInput:
        return
    for name in found.tensors:
        assert tensors.Tensors(found.tensors).array(name).size == np.prod(found.tensors[name].data.shape)


def test_what_methods_give_as_tensors() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": pd.to_datetime(["2026-01-02", "2026-01-03"])})
    mixed = {"n": 3, "none": [1, None], "big": [2**64], "deep": [[1], [2]], "row": {"k": 1}, "raw": b"\xff"}
    for value, expected in (
        (frame, {"a": ("INT64", [1, 2]), "b": ("BYTES", ["x", "null"]), "c": ("BYTES", None)}),
        (mixed, {
            "n": ("INT64", [3]), "none": ("FP64", [1.0, None]), "big": ("BYTES", ["18446744073709551616"]),
            "deep": ("BYTES", ["[1]", "[2]"]), "row": ("BYTES", ['{"k":1}']), "raw": ("BYTES", None),
        }),
        ([], {"output": ("BYTES", [])}), ("é", {"output": ("BYTES", ["é"])}), (None, {"output": ("FP64", [None])}),
        ([{"a": 1}, {"b": True}], {"a": ("FP64", [1.0, None]), "b": ("BYTES", ["null", "true"])}),
    ):  # fmt: skip
        found = named(value)
        assert list(found) == list(expected)
        for name, (datatype, data) in expected.items():
            body, _ = tensors.answered({"model_name": "m"}, [(name, found[name], data is None)])
            output = json.loads(body[: body.index(b"}]}") + 3])["outputs"][0]
            assert output["datatype"] == datatype
            assert data is None or output["data"] == data
    with pytest.raises(Exception, match="complex64"):
        tensors.answered({}, [("x", np.zeros(1, "complex64"), False)])
    with pytest.raises(Exception, match="binary_data"):
        tensors.answered({}, [("x", [b"\xff"], False)])
