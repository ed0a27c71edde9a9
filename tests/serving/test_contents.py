"""Arrow, NumPy files and raw tensors: the same values in and out, and a 400 for whatever is not what it says."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ekiben.serving import arrays, contents

from .conftest import Answer, Served, folder, ipc, served

SERVICE = Path(__file__).with_name("shapes") / "tables.py"
STREAM, FILE = "application/vnd.apache.arrow.stream", "application/vnd.apache.arrow.file"
NPY, TENSOR = "application/x-npy", "application/x-ekiben-tensor"
GRID = np.arange(6, dtype="float32").reshape(2, 3)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("contents")
    with served(folder(root / "bento", SERVICE.read_text(encoding="utf-8")), root / "worker") as started:
        yield started


def table_of(answer: Answer) -> pa.Table:
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == STREAM
    return pa.ipc.open_stream(answer.body).read_all()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def send(worker: Served, path: str, body: bytes, kind: str, accept: str = "") -> Answer:
    return worker.send("POST", path, body, {"content-type": kind, **({"accept": accept} if accept else {})})


def array_of(answer: Answer) -> np.ndarray:
    assert answer.status == 200, answer.body
    kind = answer.headers["content-type"]
    if kind == NPY:
        return np.load(io.BytesIO(answer.body), allow_pickle=False)
    told = contents.parameters(kind.encode())
    shape = [int(each) for each in told["shape"].split(",") if each]
    return np.frombuffer(answer.body, np.dtype(told["dtype"]).newbyteorder("<")).reshape(shape)


def told(answer: Answer) -> str:
    assert answer.status == 400, answer.body
    said = answer.json[0] if isinstance(answer.json, list) else answer.json
    return str(said["error"]) + json.dumps(said.get("detail", ""))


# What one method is sent in each way, and what it answers.


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", json.dumps({"x": GRID.tolist()}).encode()),
        (TENSOR, GRID.tobytes()),
        (f"{TENSOR}; dtype=float32; shape=2,3", GRID.tobytes()),
        (f'{TENSOR};DType="float32" ; SHAPE="-1,3"', GRID.tobytes()),
        (f"{TENSOR}; dtype=float64; shape=2,3", GRID.astype("float64").tobytes()),
        (f"{TENSOR}; dtype=int8", GRID.astype("int8").tobytes()),
        (NPY, npy(GRID)),
        (NPY, npy(np.asfortranarray(GRID))),
        (NPY.upper(), npy(GRID.astype("int64"))),
        (STREAM, ipc(pa.table({"a": GRID[:, 0], "b": GRID[:, 1], "c": GRID[:, 2]}))),
        (STREAM, ipc(pa.table({"x": list(GRID)}))),
        (STREAM, ipc(pa.table({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(GRID)}))),
        (FILE, ipc(pa.table({"a": [0, 3], "b": [1.0, 4.0], "c": [2, 5]}), file=True)),
    ],
)  # fmt: skip
def test_an_array_is_the_same_in_each_way(worker: Served, kind: str, body: bytes) -> None:
    assert send(worker, "/predict", body, kind).json == [3.0, 12.0]
    for accept in (TENSOR, NPY, f"text/html, {NPY};q=0.5, application/json;q=0.1"):
        found = array_of(send(worker, "/predict", body, kind, accept))
        assert found.dtype == np.float32
        assert found.tolist() == [3.0, 12.0]
    answer = send(worker, "/predict", body, kind, f"{STREAM}, */*;q=0.1")
    assert table_of(answer).column("output").to_pylist() == [3.0, 12.0]


def test_json_is_what_else_is_asked_for(worker: Served) -> None:
    for accept in ("*/*", "application/json", "text/html", f"application/json, {NPY}", f"{NPY};q=0", f"{NPY};q=x", ","):
        answer = send(worker, "/predict", GRID.tobytes(), TENSOR, accept)
        assert (answer.headers["content-type"], answer.json) == ("application/json", [3.0, 12.0])


def test_a_files_answer_is_an_arrow_file(worker: Served) -> None:
    answer = send(worker, "/predict", npy(GRID), NPY, FILE)
    assert pa.ipc.open_file(answer.body).read_all().to_pydict() == {"output": [3.0, 12.0]}


@pytest.mark.parametrize("dtype", arrays.PLAIN)
def test_every_dtype_and_its_big_endian_twin_leave_little_endian(worker: Served, dtype: str) -> None:
    for each in (dtype, np.dtype(dtype).newbyteorder(">").str):
        body = json.dumps({"dtype": each}).encode()
        for accept in (NPY, TENSOR):
            found = array_of(send(worker, "/kinds", body, "application/json", accept))
            assert (found.dtype.name, found.tolist()) == (dtype, np.array([[1, 0], [0, 1]]).astype(dtype).tolist())


def test_what_is_no_array_of_numbers_is_a_406_unless_json_will_do(worker: Served) -> None:
    body = ipc(pa.table({"a": [1]}))
    answer = send(worker, "/frame", body, STREAM, NPY)
    assert (answer.status, answer.json) == (406, [{"error": f"What this method gives cannot be written as {NPY}."}])
    assert send(worker, "/frame", body, STREAM, f"{NPY}, */*;q=0.1").json == [{"a": 1, "total": 1}]
    assert send(worker, "/kinds", b'{"dtype": "complex64"}', "application/json", STREAM).status == 406
    # An answer that is text stays text.
    assert send(worker, "/text", b"abc", "text/plain", NPY).body == b"abc"


def test_several_arrays_are_columns_by_name(worker: Served) -> None:
    body = ipc(pa.table({"b": [[1.5, 2.5], [3.5, 4.5]], "a": [1, 2]}))
    assert send(worker, "/several", body, STREAM).json == {"a": [1, 2], "b": [[1.5, 2.5], [3.5, 4.5]]}
    found = table_of(send(worker, "/several", body, STREAM, STREAM))
    assert found.column("a").type == pa.int16()
    assert found.column("b").combine_chunks().to_numpy_ndarray().tolist() == [[1.5, 2.5], [3.5, 4.5]]
    one = ipc(pa.table({"a": [3], "b": ["word"], "times": [4]}))
    assert send(worker, "/several", one, STREAM).json == {"a": [12], "b": ["word"]}
    assert "Field required" in told(send(worker, "/several", ipc(pa.table({"a": [1]})), STREAM))
    why = told(send(worker, "/several", ipc(pa.table({"a": [1], "c": [1]})), STREAM))
    assert why.startswith("The method takes 'a', 'b', 'times', and not 'c'.")


def test_a_frame_takes_all_columns(worker: Served) -> None:
    frame = pd.DataFrame({"x": [1, 2], "y": [0.5, None]})
    table = pa.Table.from_pandas(frame)
    found = table_of(send(worker, "/frame", ipc(table), STREAM, STREAM)).to_pandas()
    pd.testing.assert_frame_equal(found, frame.assign(total=[1.5, 2.0]))
    assert send(worker, "/frame", ipc(table), STREAM).json == [
        {"x": 1, "y": 0.5, "total": 1.5}, {"x": 2, "y": None, "total": 2.0},
    ]  # fmt: skip
    body = ipc(pa.table({"a": [1], "b": [2], "c": [3], "k": [10]}))
    assert send(worker, "/columns", body, STREAM).json == [{"b": 20, "a": 10}]
    assert told(send(worker, "/columns", ipc(pa.table({"a": [1]})), STREAM)).startswith("x lacks the columns 'b'.")


def test_rows_are_validated_as_json_is(worker: Served) -> None:
    rows = pa.table(
        {"age": [17, 40], "name": ["Zoë", "日本"], "born": pa.array(["2020-02-29", None]).cast(pa.date32())}
    )
    expected = [{"name": "Zoë", "score": 8.5, "adult": False}, {"name": "日本", "score": 20.0, "adult": True}]
    assert send(worker, "/rows", ipc(rows), STREAM).json == expected
    assert table_of(send(worker, "/rows", ipc(rows), STREAM, STREAM)).to_pylist() == expected
    bad = send(worker, "/rows", ipc(pa.table({"age": [1, -1], "extra": [1, 1]})), STREAM)
    where = [each["loc"] for each in bad.json["detail"]]
    assert (bad.status, where) == (400, [["people", 0, "extra"], ["people", 1, "age"], ["people", 1, "extra"]])
    assert "at most 3" in told(send(worker, "/rows", ipc(pa.table({"age": [1] * 4})), STREAM))
    assert told(send(worker, "/rows", ipc(pa.table({"age": [1.5]})), STREAM))
    assert send(worker, "/rows", ipc(pa.table({"age": pa.array([], pa.int64())})), STREAM).json == []


def test_what_the_method_says_of_its_answer_is_in_it(worker: Served) -> None:
    answer = send(worker, "/told", GRID.tobytes(), TENSOR, NPY)
    assert (answer.status, answer.headers["x-told"], answer.headers["content-type"]) == (202, "yes", NPY)
    assert np.load(io.BytesIO(answer.body)).tolist() == GRID.tolist()


def headed(header: str) -> bytes:
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header.encode() + GRID.tobytes()


QUAD = struct.Struct("<q").pack
OVER = np.array([[1, 2], [3, 200]])


@pytest.mark.parametrize(
    ("path", "kind", "body", "why"),
    [
        ("/predict", TENSOR, GRID.tobytes()[:-1], "23 bytes"), ("/predict", TENSOR, GRID.tobytes()[:-4], "20 bytes"),
        ("/predict", f"{TENSOR}; shape=3,2", GRID.tobytes(), "x must have the shape (-1, 3), and has (3, 2)."),
        ("/predict", f"{TENSOR}; shape=6", GRID.tobytes(), "x must have the shape (-1, 3), and has (6)."),
        ("/predict", f"{TENSOR}; shape=-1,-1", GRID.tobytes(), "more than one dimension"),
        ("/predict", f"{TENSOR}; shape=-2,-3", GRID.tobytes(), "leaves more than one dimension open"),
        ("/predict", f"{TENSOR}; shape=2;dtype=>f4", GRID.tobytes(), "The bytes are little-endian."),
        ("/predict", f"{TENSOR}; dtype=object", GRID.tobytes(), "'object' is none of bool,"),
        ("/predict", f"{TENSOR}; shape=two", GRID.tobytes(), "no list of whole numbers"),
        ("/predict", f"{TENSOR}; shape={'9' * 5000}", GRID.tobytes(), "no list of whole numbers"),
        ("/predict", f"{TENSOR}; shape=4611686018427387904,0", b"", "cannot have the shape"),
        ("/predict", f"{TENSOR}; dtype=float64", np.full((1, 3), 1e300).tobytes(), "too large for it"),
        ("/same", TENSOR, b"\0", "declares no dtype"), ("/same", f"{TENSOR}; dtype=bool", b"\0\1\2", "neither 0 nor 1"),
        ("/root", f"{TENSOR}; dtype=int64", OVER.tobytes(), "x must be int8, and 200 is too large for it."),
        ("/root", f"{TENSOR}; dtype=float64", OVER.astype("f8").tobytes(), "x must be int8, and is float64."),
        ("/root", f"{TENSOR}; dtype=float64", np.full(4, np.nan).tobytes(), "x must be int8, and is float64."),
        ("/several", TENSOR, b"", "does not take one array"), ("/one", NPY, npy(GRID), "does not take one array"),
        ("/predict", NPY, b"", "no .npy file"), ("/predict", NPY, b"\x93NUMPY\x02\0\1\0", "no .npy file"),
        ("/predict", NPY, npy(GRID)[:-1], "23 bytes"), ("/predict", NPY, npy(GRID) + b"\0", "25 bytes"),
        ("/predict", NPY, npy(GRID.astype(">f4")), "holds '>f4', and must hold one of |b1, |i1, <i2"),
        ("/predict", NPY, npy(np.array(["a"])), "holds '<U1'"), ("/predict", NPY, npy(GRID.astype("c8")), "holds '<c8'"),
        ("/predict", NPY, npy(np.zeros(1, "f4,i4")), "must hold one of"),
        ("/predict", NPY, headed("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"), "holds '|O'"),
        ("/predict", NPY, headed("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -3)}"), "the shape (-2, -3)"),
        ("/predict", NPY, headed("{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}"), "the shape (True,)"),
        ("/predict", NPY, headed("{'descr': '<f4', 'fortran_order': False, 'shape': [2, 3]}"), "the shape [2, 3]"),
        ("/predict", NPY, headed("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 99999999999999999999)}"), "24 bytes"),
        ("/predict", NPY, headed("{'descr': '<f4', 'fortran_order': False, 'shape': (9**9,)}"), "cannot be read"),
        ("/predict", NPY, headed("{'descr': '<f4'}"), "cannot be read"), ("/predict", NPY, headed("()"), "cannot be read"),
        ("/predict", NPY, headed("(" * 4000), "cannot be read"), ("/predict", NPY, headed("0\0"), "cannot be read"),
        ("/predict", NPY, b"\x93NUMPY\x02\0\xff\xff\xff\x7f" + b"(" * 9000, "more than 4096 bytes"),
        ("/predict", STREAM, b"", "no Arrow"), ("/predict", STREAM, b"\xff" * 99, "no Arrow"),
        ("/predict", FILE, b"ARROW", "no Arrow file"),
        ("/predict", STREAM, ipc(pa.table({"x": GRID[:, 0]}))[:-200], "no Arrow"),
        ("/predict", STREAM, ipc(pa.table({"a": [1], "b": ["1"], "c": [1]})), "'b' is <U1, and must be numbers"),
        ("/predict", STREAM, ipc(pa.table({"x": [[1, 2], [3]]})), "several lengths"),
        ("/predict", STREAM, ipc(pa.table({"x": [[1, 2, 3], None]})), "a null where a list must be"),
        ("/predict", STREAM, ipc(pa.table({"x": ["a"]})), "x must be float32, and is <U1."),
        ("/predict", STREAM, ipc(pa.table({"x": pa.array(["a"]).dictionary_encode()})), "only a DataFrame"),
        ("/predict", STREAM, ipc(pa.table({"a": [{"b": 1}]})), "cannot be made an array"),
        ("/several", STREAM, ipc(pa.table({"a": [1, None], "b": [1, 1]})), "a must be int16, and is float64."),
        ("/several", STREAM, ipc(pa.table({"a": [2**15], "b": [1]})), "a must be int16, and 32768 is too large"),
        ("/frame", STREAM, ipc(pa.table({"a": [0] * 999}), compression="zstd"), "compressed"),
        ("/frame", STREAM, ipc(pa.table({"a": ["a" * 999] * 999}), compression="lz4"), "compressed"),
        ("/frame", STREAM, ipc(pa.table({"a": pa.array(["b"]).dictionary_encode()}), compression="lz4"), "compressed"),
        ("/frame", STREAM, ipc(pa.table([[1], [2]], names=["a", "a"])), "the same name"),
        ("/frame", STREAM, ipc(pa.table({"a": pa.RunEndEncodedArray.from_arrays([2**30], [1])})), "is not taken"),
        ("/frame", STREAM, ipc(pa.table({"a": pa.array(["x"], pa.string_view())})), "is not taken"),
        ("/frame", STREAM, ipc(pa.table({"a": pa.nulls(77)})).replace(*map(QUAD, (77, 2**40))), "larger than the content"),
        ("/frame", STREAM, ipc(pa.table({"a": pa.array([b""], pa.binary(0))})), "is not taken"),
    ],
)  # fmt: skip
def test_what_is_not_as_it_says_is_a_400_that_says_why(
    worker: Served, path: str, kind: str, body: bytes, why: str
) -> None:
    assert why in told(send(worker, path, body, kind))


def test_encoded_content_is_a_415(worker: Served) -> None:
    answer = worker.send("POST", "/predict", b"x", {"content-type": NPY, "content-encoding": "gzip"})
    assert (answer.status, "gzip" in answer.json[0]["error"]) == (415, True)


def test_a_body_that_is_too_large_is_a_413(tmp_path: Path) -> None:
    bento = folder(tmp_path / "bento", SERVICE.read_text(encoding="utf-8"))
    with served(bento, tmp_path / "worker", env={"EKIBEN_SERVER_MAX_BODY_BYTES": "1000"}) as small:
        assert send(small, "/predict", bytes(1200), TENSOR).status == 413
        assert send(small, "/predict", bytes(996), TENSOR).status == 200


def test_without_pyarrow_it_is_a_415_that_names_it(tmp_path: Path) -> None:
    lacking = "import sys\nsys.modules['pyarrow'] = None\n" + SERVICE.read_text(encoding="utf-8")
    with served(folder(tmp_path / "bento", lacking), tmp_path / "worker") as without:
        for kind, accept in ((STREAM, ""), (TENSOR, STREAM)):
            answer = send(without, "/predict", GRID.tobytes(), kind, accept)
            assert answer.status == 415
            assert "pyarrow" in answer.json[0]["error"]
        assert send(without, "/predict", GRID.tobytes(), TENSOR).json == [3.0, 12.0]


def test_nothing_of_it_is_loaded_before_it_is_asked_for(tmp_path: Path) -> None:
    listing = "\n    @bentoml.api\n    def loaded(self) -> list[str]:\n        import sys\n        return sorted(sys.modules)\n"
    listing += "    @bentoml.api\n    def a(self, x: np.ndarray) -> int:\n        return 1\n"
    head = "import bentoml\nimport numpy as np\n@bentoml.service\nclass Probe:"
    with served(folder(tmp_path / "bento", head + listing), tmp_path / "worker") as started:
        assert started.post("/a", {"x": [1]}).json == 1
        loaded = set(started.post("/loaded", {}).json)
        assert not loaded & {"pyarrow", "_ekiben_serving.arrow", "_ekiben_serving.arrays", "_ekiben_serving.inference"}
        assert send(started, "/a", npy(GRID), NPY).json == 1
        assert "_ekiben_serving.arrays" in started.post("/loaded", {}).json


ODD = """
from pathlib import Path

import bentoml
import numpy as np
from pydantic import BaseModel


class Part(BaseModel):
    at: int
    words: list[str] = []


class Whole(BaseModel):
    name: str
    parts: list[Part] = []


@bentoml.service(name="odd")
class Probe:
    @bentoml.api
    def nested(self, wholes: list[Whole], /) -> list[Whole]:
        return wholes

    @bentoml.api(batchable=True)
    def joined(self, x: np.ndarray) -> np.ndarray:
        return x * 2

    @bentoml.api
    def size(self, f: Path, note: str = "") -> int:
        return len(f.read_bytes())

    @bentoml.api
    def word(self, text: str, /) -> str:
        return text

    @bentoml.api
    def maybe(self, x: np.ndarray | None = None) -> int:
        return -1 if x is None else x.size

    @bentoml.api
    def anything(self, kind: str):
        return {"path": Path(__file__), "number": 3, "ragged": {"a": [1], "b": [1, 2]}}[kind]
"""


def test_methods_of_other_shapes(tmp_path: Path) -> None:
    with served(folder(tmp_path / "bento", ODD), tmp_path / "worker") as odd:
        rows = [{"name": "a", "parts": [{"at": 1, "words": ["é", ""]}]}, {"name": "b", "parts": []}]
        answer = send(odd, "/nested", ipc(pa.Table.from_pylist(rows)), STREAM, STREAM)
        assert table_of(answer).to_pylist() == rows
        assert array_of(send(odd, "/joined", npy(GRID), NPY, NPY)).tolist() == (GRID * 2).tolist()
        assert "does not take one array" in told(send(odd, "/size", npy(GRID), NPY))
        assert send(odd, "/maybe", npy(GRID), NPY).json == 6
        assert send(odd, "/maybe", ipc(pa.table({"x": [1]})), STREAM).json == 1
        assert send(odd, "/size", ipc(pa.table({"f": [b"\xff\0"]})), STREAM).json == 2
        assert "must hold one value, and bytes" in told(send(odd, "/size", ipc(pa.table({"f": ["text"]})), STREAM))
        for kind, status in (("path", 406), ("ragged", 406), ("number", 200)):
            assert (
                send(odd, "/anything", json.dumps({"kind": kind}).encode(), "application/json", STREAM).status == status
            )
        assert b"import bentoml" in send(odd, "/anything", b'{"kind": "path"}', "application/json").body

        def infer(method: str, datatype: str, data: Any, name: str = "x") -> Any:
            given = {"inputs": [{"name": name, "datatype": datatype, "shape": [1], "data": data}]}
            return odd.post(f"/v2/models/odd.{method}/infer", given).json

        assert infer("joined", "INT32", [3])["outputs"][0] == {
            "name": "output",
            "datatype": "INT32",
            "shape": [1],
            "data": [6],
        }
        assert infer("size", "BYTES", ["é"], "f")["outputs"][0]["data"] == [2]
        assert infer("word", "BYTES", ["é"], "text")["outputs"][0]["data"] == ["é"]
        assert "no tensor" in infer("anything", "BYTES", ["path"], "kind")["error"]
        assert [each["data"] for each in infer("anything", "BYTES", ["ragged"], "kind")["outputs"]] == [[1], [1, 2]]
