"""The Open Inference Protocol, asked by Triton's own client and by hand; its binary form by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from ekiben.serving import tensors

from .conftest import Answer, Served, folder, served

SERVICE = Path(__file__).with_name("shapes") / "tables.py"
GRID = np.arange(6, dtype="float32").reshape(2, 3)
LENGTH = "inference-header-content-length"
INFER = "/v2/models/tables/infer"


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("inference")
    with served(folder(root / "bento", SERVICE.read_text(encoding="utf-8")), root / "worker") as started:
        yield started


@pytest.fixture
def client(worker: Served) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{worker.port}") as connected:
        yield connected


def tensor(name: str, array: np.ndarray, *, binary: bool = True) -> Any:
    kind = tensors.NAMES.get(array.dtype.name, "BYTES")
    made = triton.InferInput(name, array.shape, kind)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def asked(worker: Served, path: str, body: Any, **headers: str) -> Answer:
    given = body if isinstance(body, bytes) else json.dumps(body).encode()
    return worker.send("POST", path, given, {name.replace("_", "-"): value for name, value in headers.items()})


def why(answer: Answer, status: int = 400) -> str:
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json) == ["error"]
    return str(answer.json["error"])


def test_the_client_finds_server_and_models(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    told = {"name": "tables", "version": "abc", "extensions": ["binary_tensor_data"]}
    assert client.get_server_metadata() == told
    for name in ("tables", "probe", "tables.predict", "probe.predict"):
        for version in ("", "abc"):
            assert client.is_model_ready(name, version)
            assert client.get_model_metadata(name, version) == {
                "name": name, "versions": ["abc"], "platform": "bentoml",
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
                "outputs": [{"name": "output", "datatype": "FP64", "shape": [-1]}],
            }  # fmt: skip
    rows = client.get_model_metadata("tables.rows")
    assert [(each["name"], each["datatype"], each["shape"]) for each in rows["inputs"]] == [
        ("age", "INT64", [-1]), ("name", "BYTES", [-1]), ("born", "BYTES", [-1]), ("bonus", "FP64", [1]),
    ]  # fmt: skip
    assert [(each["name"], each["datatype"], each["shape"]) for each in rows["outputs"]] == [
        ("name", "BYTES", [-1]), ("score", "FP64", [-1]), ("adult", "BOOL", [-1]),
    ]  # fmt: skip
    assert not client.is_model_ready("tables", "other")
    assert not client.is_model_ready("tables.other")


@pytest.mark.parametrize("asked_binary", [True, False])
@pytest.mark.parametrize("told_binary", [True, False, None])
def test_the_client_gets_what_the_method_gives(client: Any, asked_binary: bool, told_binary: bool | None) -> None:
    outputs = None if told_binary is None else [triton.InferRequestedOutput("output", binary_data=told_binary)]
    for name, version in (("tables", ""), ("probe.predict", "abc")):
        found = client.infer(
            name, [tensor("x", GRID, binary=asked_binary)], version, outputs, request_id="é-1", parameters={"mine": 1}
        )
        assert found.as_numpy("output").tolist() == [3.0, 12.0]
        head = found.get_response()
        assert (head["model_name"], head["model_version"], head["id"]) == (name, "abc", "é-1")
        assert head["outputs"][0]["datatype"] == "FP32"
    several = client.infer(
        "tables.several",
        [tensor("b", GRID, binary=asked_binary), tensor("a", np.array([1], "int16")), tensor("times", np.array([3]))],
        outputs=[triton.InferRequestedOutput("b", binary_data=bool(told_binary))],
    )
    assert several.as_numpy("b").tolist() == GRID.tolist()
    assert several.as_numpy("a") is None


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("dtype", tensors.DATATYPES.values())
def test_every_datatype_comes_back(client: Any, dtype: str, binary: bool) -> None:
    info = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else None
    values = [info.min, info.max] if info else [0, 1] if dtype == "bool" else [0.1, -2.5]
    array = np.array([values, values[::-1]], dtype)
    found = client.infer(
        "tables.same", [tensor("x", array, binary=binary or dtype == "float16")],  # the client sends no FP16 as JSON
        outputs=[triton.InferRequestedOutput("output", binary_data=binary)],
    ).as_numpy("output")  # fmt: skip
    assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())


@pytest.mark.parametrize("binary", [True, False])
def test_text_numbers_and_lists_are_parameters(client: Any, binary: bool) -> None:
    found = client.infer("tables.scalars", [
        tensor("n", np.array([7]), binary=binary), tensor("text", np.array(["日本"], object), binary=binary),
        tensor("flags", np.array([True]), binary=binary),
    ])  # fmt: skip
    assert found.as_numpy("text").tolist() == ["日本".encode()]
    assert (found.as_numpy("n").tolist(), found.as_numpy("flags").tolist()) == ([7], [True])
    words = np.array([["a", "b"], ["", "é"]], object)
    assert client.infer("tables.same", [tensor("x", words, binary=binary)]).as_numpy("output").tolist() == [
        [b"a", b"b"], [b"", "é".encode()],
    ]  # fmt: skip
    person = np.array([json.dumps({"age": 3, "born": "2020-02-29"})], object)
    found = client.infer("tables.one", [tensor("person", person, binary=binary)])
    assert (found.as_numpy("score").tolist(), found.as_numpy("adult").tolist()) == ([3.0], [True])


@pytest.mark.parametrize("binary", [True, False])
def test_the_inputs_of_a_table_are_its_columns(client: Any, binary: bool) -> None:
    found = client.infer("tables.frame", [
        tensor("a", np.array([[1], [2]]), binary=binary), tensor("b", np.array([0.5, 1.5]), binary=binary),
    ])  # fmt: skip
    assert {name: found.as_numpy(name).tolist() for name in ("a", "b", "total")} == {
        "a": [1, 2], "b": [0.5, 1.5], "total": [1.5, 3.5],
    }  # fmt: skip
    found = client.infer("tables.rows", [
        tensor("age", np.array([17, 40]), binary=binary), tensor("name", np.array(["Zoë", "x"], object), binary=binary),
        tensor("bonus", np.array([1.0]), binary=binary),
    ])  # fmt: skip
    assert found.as_numpy("score").tolist() == [9.5, 21.0]
    assert found.as_numpy("name").tolist() == ["Zoë".encode(), b"x"]
    assert found.as_numpy("adult").tolist() == [False, True]
    with pytest.raises(InferenceServerException, match="people.1.age: Input should be greater than or equal to 0"):
        client.infer("tables.rows", [tensor("age", np.array([1, -1]), binary=binary)])


def test_it_is_json_without_a_client(worker: Served) -> None:
    body = {"inputs": [{"name": "x", "shape": [2, 3], "datatype": "FP32", "data": GRID.tolist()}]}
    expected = {
        "model_name": "tables", "model_version": "abc",
        "outputs": [{"name": "output", "datatype": "FP32", "shape": [2], "data": [3.0, 12.0]}],
    }  # fmt: skip
    for kind in ("application/json", "text/plain", "multipart/form-data; boundary=x"):
        assert asked(worker, INFER, body, content_type=kind).json == expected
    body["inputs"][0]["data"] = [1, None, 2, 3.5, -1, 0]
    answer = asked(worker, INFER, body, accept="application/x-npy")
    assert answer.json["outputs"][0]["data"] == [None, 2.5]
    assert worker.send("GET", "/v2/health/live").json == {"live": True}
    assert worker.send("GET", "/v2/models/tables/ready").json == {"name": "tables", "ready": True}
    told = asked(worker, "/v2/models/tables.told/infer", body)
    assert (told.status, told.headers["x-told"], told.headers["content-type"]) == (202, "yes", "application/json")
    # It is counted as a call of the method.
    metrics = worker.send("GET", "/metrics").body.decode()
    assert 'endpoint="/told",http_response_code="202"' in metrics
    assert 'endpoint="/v2/models/ready"' in metrics


def x(**other: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3], **other}]}


HUGE = {"shape": [2**40, 2**40, 0], "data": []}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "no JSON"), (b"{", "no JSON"), ([], "`inputs`"), ({}, "`inputs`"), ({"inputs": {}}, "`inputs`"),
        ({"inputs": [3]}, "no `name`"), (b"[" * 100_000, "no JSON"), ({**x(), "id": 3}, "`id`"),
        (x(name=""), "no `name`"), (x(name=3), "no `name`"), (x(name="y"), "takes 'x', and not 'y'"), (x(datatype="FP8"), "'FP8'"),
        (x(datatype=[]), "must be BOOL, "), (x(datatype="BYTES"), "must be text"),
        (x(shape=None), "list of sizes"), (x(shape=[-1, 3]), "list of sizes"),
        (x(shape=[True, 3]), "list of sizes"), (x(shape=[1] * 99), "list of sizes"), (x(shape=[2, 3]), "3 elements"),
        (x(shape=[3]), "must have the shape (-1, 3), and has (3)"), (x(shape=[3, 1]), "must have the shape (-1, 3)"),
        (x(**HUGE), "cannot have the shape"), (x(data=None), "no list of `data`"), (x(data=[1, 2]), "2 elements"),
        (x(data=["1", "2", "3"]), "hold what is no FP32"), (x(data=[True, 1, 1]), "hold what is no FP32"),
        (x(data=[1e39, 1, 1]), "too large"), (x(data=[10**400, 1, 1]), "too large"), (x(data=[[1, 2], [3]]), "several lengths"),
        (x(data=[[1], [2], [3]]), "have the shape [3, 1]"), (x(data=[[1, 2, 3], 4]), "hold what is no FP32"),
        (x(datatype="INT32", data=[1.0, 2, 3]), "hold what is no INT32"), (x(datatype="INT8", data=[1, 2, 128]), "too large"),
        (x(datatype="UINT8", data=[1, 2, -1]), "too large"), (x(datatype="INT64", data=[1, 2, 2**63]), "too large"),
        (x(datatype="INT64", data=[1, None, 2]), "hold what is no INT64"),
        (x(datatype="BOOL", data=[1, 0, 1]), "hold what is no BOOL"),
        ({"inputs": x()["inputs"] * 2}, "there twice"), (x(parameters=3), "must be an object"),
        (x(parameters={"shared_memory_region": "a"}), "Shared memory"), ({**x(), "outputs": 3}, "no list"),
        ({**x(), "outputs": [3]}, "no `name`"), ({**x(), "outputs": [{"name": "y"}]}, "no output 'y'. It has: output."),
        ({**x(), "outputs": [{"name": "output", "parameters": {"classification": 2}}]}, "classification"),
        (x(parameters={"binary_data_size": 1}), "0 bytes are left"), (x(parameters={"binary_data_size": -1}), "bytes are left"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_a_400_that_says_why(worker: Served, body: Any, said: str) -> None:
    assert said in why(asked(worker, INFER, body))


def test_errors_of_routes_and_of_the_binary_form(worker: Served) -> None:
    assert "There are: tables." in why(asked(worker, "/v2/models/other/infer", x()), 404)
    assert "version 'abc' alone" in why(asked(worker, "/v2/models/tables/versions/2/infer", x()), 404)
    assert "version 'abc' alone" in why(worker.send("GET", "/v2/models/tables/versions/2"), 404)
    assert why(worker.send("GET", INFER), 405) == why(worker.send("POST", "/v2"), 405) == "Method Not Allowed"
    for path in ("/v2/other", "/v2x", "/v2/models", "/v2/models/tables/other", "/v2/models/tables/versions"):
        assert worker.send("GET", path).body == b"Not Found"
    head = json.dumps(
        {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": 12}}]}
    )
    whole, size = head.encode() + GRID[:1].tobytes(), str(len(head))
    answer = asked(worker, INFER, whole, inference_header_content_length=size)
    assert answer.json["outputs"][0]["data"] == [3.0]
    unsaid = whole.replace(b"12}", b" 0}").replace(b"[1, 3]", b"[0, 3]")
    assert "12 bytes that are no input's" in why(asked(worker, INFER, unsaid, inference_header_content_length=size))
    for body, length in (
        (whole, "x"),
        (whole, "9" * 30),
        (whole, str(len(whole) + 1)),
        (whole[:-1], size),
        (whole + b"\0", size),
    ):
        assert why(asked(worker, INFER, body, inference_header_content_length=length))
    assert "encoded" in why(asked(worker, INFER, whole, content_encoding="gzip"), 415)
    assert "Field required" in why(asked(worker, "/v2/models/tables.several/infer", {"inputs": [
        {"name": "a", "shape": [1], "datatype": "INT16", "data": [1]}]}))  # fmt: skip


UNREADY = """
import os
from pathlib import Path
from typing import Generator

import bentoml
import numpy as np

@bentoml.service
class Probe:
    def __is_ready__(self) -> bool:
        return not Path(os.environ["UNREADY"]).exists()

    @bentoml.api
    def only(self, x: np.ndarray, ctx: bentoml.Context) -> np.ndarray:
        if x.size > 3:
            raise bentoml.exceptions.InvalidArgument("four are too many")
        return x[0] if x[0] else 1 / 0

    @bentoml.api
    def stream(self, n: int) -> Generator[int, None, None]:
        yield n

    @bentoml.api
    def file(self, f: Path) -> Path:
        return f
"""


def test_the_only_method_is_the_model_and_its_errors_are_the_protocols(tmp_path: Path) -> None:
    unready = tmp_path / "unready"
    with served(folder(tmp_path / "bento", UNREADY), tmp_path / "worker", env={"UNREADY": str(unready)}) as other:
        assert other.send("GET", "/v2/models/Probe/ready").json == {"name": "Probe", "ready": True}
        unready.touch()
        for path in ("/v2/health/ready", "/v2/models/Probe/ready"):
            assert "not ready" in why(other.send("GET", path), 503)
        assert other.send("GET", "/v2/models/Probe").json["name"] == "Probe"
        for name in ("Probe.stream", "Probe.file", "Probe.other"):
            assert "There are: Probe.only." in why(other.send("GET", f"/v2/models/{name}"), 404)
        body = {"inputs": [{"name": "x", "shape": [4], "datatype": "FP32", "data": [1] * 4}]}
        assert why(asked(other, "/v2/models/probe/infer", body)) == "four are too many"
        body["inputs"] = [{"name": "x", "shape": [1], "datatype": "FP32", "data": [0]}]
        assert "check the server log" in why(asked(other, "/v2/models/probe/infer", body), 500)
        assert "division by zero" in other.log.read_text()


def test_a_prefix_goes_before_it_and_own_routes_come_first(tmp_path: Path) -> None:
    service = """
import bentoml

@bentoml.service(path_prefix="/api")
class Probe:
    @bentoml.api(route="/v2/models/Probe/infer")
    def own(self, x: int) -> int:
        return x

    @bentoml.api
    def predict(self, x: int) -> int:
        return x + 1
"""
    with served(folder(tmp_path / "bento", service), tmp_path / "worker") as other:
        assert other.send("GET", "/v2").status == 404
        assert other.send("GET", "/api/v2").json["name"] == "Probe"
        assert other.post("/api/v2/models/Probe/infer", {"x": 3}).json == 3
        body = {"inputs": [{"name": "x", "shape": [1], "datatype": "INT64", "data": [3]}]}
        assert other.post("/api/v2/models/probe/infer", body).json["outputs"][0]["data"] == [4]
