"""Batchable methods: the answers of BentoML's own server, and what it does not do: one bad request fails alone."""

from __future__ import annotations

import http.client
import io
import json
import signal
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.waiting import PATIENCE_S, until

from .asked import MULTIPART, form, part
from .conftest import Answer, Served, folder, served

SERVICE = Path(__file__).with_name("shapes") / "batches.py"
# Sent one after the other: rows in and out of all kinds, none, more than one call takes, and wrong ones.
ASKED: list[tuple[str, Any]] = [
    ("/double", {"x": [1, 2]}), ("/double", {"x": list(range(11))}), ("/double", {"x": []}), ("/double", {"x": ["a"]}),
    ("/double", {}), ("/double", []), ("/double_async", {"x": [5]}), ("/root", [1, 2.5]), ("/root", list(range(120))),
    ("/root", {}), ("/people", {"people": [{"age": 1}, {"age": 2, "name": "Zoë"}]}), ("/people", {"people": [{"age": -1}]}),
    ("/array", {"x": [[1, 2], [3, 4]]}), ("/array", {"x": [[each] for each in range(9)]}), ("/array", {"x": []}),
    ("/array", {"x": [[], []]}), ("/array", {"x": [1.5]}), ("/array", {"x": [[1], [2, 3]]}),
    ("/columns", {"x": [[1, 2, 3], [4, 5, 6]]}), ("/columns", {"x": [list(range(9))] * 2}), ("/columns", {"x": [[], []]}),
    ("/last", {"x": [[1, 2], [3, 4], [5, 6]]}), ("/last", {"x": [[each, each] for each in range(20)]}),
    ("/tuples", {"x": ["a", "é"]}), ("/tuples", {"x": []}), ("/untyped", {"x": [1, "a", None]}), ("/untyped", {}),
    ("/careful", {"x": [1, -2]}), ("/careful", {"x": [13]}), ("/careful", {"x": []}), ("/wrong_answer", {"x": [1, -1]}),
]  # fmt: skip


@pytest.fixture(scope="module")
def bento(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("bento"), SERVICE.read_text(encoding="utf-8"))


@pytest.fixture
def worker(bento: Path, tmp_path: Path) -> Iterator[Served]:
    with served(bento, tmp_path / "worker", env={"GO": str(tmp_path / "go")}) as each:
        assert "BentoML's own server runs this service" not in each.log.read_text()
        yield each


class Gathered:
    """Requests that have come while a call was held up, and their answers once it was let go."""

    def __init__(self, worker: Served, go: Path, path: str, **first: Any) -> None:
        self.worker, self.go, self.path = worker, go, path
        self._pool = ThreadPoolExecutor(40)
        self.first = self._pool.submit(worker.post, path, {"x": [-100], **first}, x_caller="first")
        until(Path(f"{go}.begun").exists, "the first call has begun")

    def send(self, *bodies: Any) -> list[Any]:
        sent = [
            self._pool.submit(self.worker.post, self.path, body, x_caller=str(number))
            for number, body in enumerate(bodies)
        ]
        self.wait(len(bodies))
        return sent

    def wait(self, count: int) -> None:
        until(lambda: waiting(self.worker) >= count, f"{count} wait")

    def answers(self, sent: list[Any]) -> list[Answer]:
        self.go.touch()
        return [each.result() for each in sent]


def waiting(worker: Served) -> int:
    """Beside the call that is held up and the question itself."""
    line = next(
        line
        for line in worker.send("GET", "/metrics").body.decode().splitlines()
        if line.startswith("bentoml_service_request_in_progress{")
    )
    return int(float(line.rpartition(" ")[2])) - 2


def test_the_same_answers_as_bentomls_own_server(bento: Path, tmp_path: Path) -> None:
    with served(bento, tmp_path / "lean") as ours, served(bento, tmp_path / "own", own=True) as theirs:
        for path, body in ASKED:
            answers = [each.post(path, body) for each in (ours, theirs)]
            told = [(each.status, each.headers.get("content-type"), repr(each.json)) for each in answers]
            assert told[0] == told[1], (path, body)
        upload = form(part("f", "one", "1.txt"), part("f", "two", "2.txt"))
        for body in (
            upload,
            form(*[part("f", str(each), "x.txt") for each in range(8)]),
            form(part("g", "x", "1.txt")),
        ):
            answers = [each.send("POST", "/files", body, MULTIPART) for each in (ours, theirs)]
            assert (answers[0].status, answers[0].json) == (answers[1].status, answers[1].json)
        # Many at once: nobody gets what is another's.
        bodies = [("/root", [float(each)] * (each % 7)) for each in range(60)]
        bodies += [("/array", {"x": [[each, each]] * (1 + each % 3)}) for each in range(60)]
        bodies += [("/columns", {"x": [[each] * (1 + each % 5)] * 2}) for each in range(60)]
        with ThreadPoolExecutor(30) as pool:
            both = [list(pool.map(lambda given: each.post(*given).json, bodies)) for each in (ours, theirs)]  # noqa: B023
        assert both[0] == both[1]


def test_what_bentoml_does_not_join_is_joined(worker: Served) -> None:
    assert worker.post("/frame", {"x": [{"a": 1, "b": 2.5}, {"a": 2, "b": 1}]}).json == [
        {"a": 2, "b": 5.0},
        {"a": 4, "b": 2.0},
    ]
    assert worker.post("/scores", {"x": [[1, 2], [3, 4], [5, 6]]}).json == [3, 7, 11]
    assert worker.post("/seen", {}).json == [[0, 1], [0]]  # the index is a call's, not a request's
    assert worker.post("/several", {"x": [1, 2], "y": [3, 4], "factor": 2}).json == [8, 12]
    for path, body, why in (
        ("/several", {"x": [1, 2], "y": [3]}, "its values differ in their number of rows"),
        ("/array", {"x": 3}, "an array of 0 dimensions has no rows along dimension 0"),
        ("/columns", {"x": [1, 2]}, "an array of 1 dimensions has no rows along dimension 1"),
        ("/untyped", {"x": "abc"}, "it has no rows"),
        ("/untyped", {"x": {"a": 1}}, "it has no rows"),
    ):
        answer = worker.post(path, body)
        assert (answer.status, answer.json) == (400, [{"error": f"it cannot be part of a batch: {why}"}]), path


def test_what_comes_while_a_call_is_made_is_in_the_next(worker: Served, tmp_path: Path) -> None:
    for path in ("/double", "/double_async"):
        gathered = Gathered(worker, tmp_path / "go", path)
        sent = gathered.send(*({"x": [number, number]} for number in range(20)))
        assert [each.json for each in gathered.answers(sent)] == [[2 * number] * 2 for number in range(20)]
        assert gathered.first.result().json == [-200]
        calls = worker.post("/seen", {}).json
        # A request keeps its boundaries: two of two rows fill a call of four.
        assert calls == ([1, *[4] * 10] if path == "/double" else [1, 40])
        for each in tmp_path.glob("go*"):
            each.unlink()
    text = worker.send("GET", "/metrics").body.decode()
    labels = (
        'method_name="double_async",worker_index="1",runner_name="batches",service_name="probe",service_version="abc"'
    )
    assert f"bentoml_service_adaptive_batch_size_sum{{{labels}}} 21.0" in text
    assert f"bentoml_service_adaptive_batch_rows_sum{{{labels}}} 41.0" in text
    assert f"bentoml_service_adaptive_batch_rows_count{{{labels}}} 2.0" in text


def test_forms_and_arrays_are_joined_as_well(worker: Served) -> None:
    def files(number: int) -> Any:
        return worker.send("POST", "/files", form(part("f", str(number), "x.txt")), MULTIPART).json

    def array(number: int) -> Any:
        file = io.BytesIO()
        np.save(file, np.full((2, 1), number))
        kind = "application/x-npy"
        answer = worker.send("POST", "/array", file.getvalue(), {"content-type": kind, "accept": kind})
        assert answer.headers["content-type"] == kind
        return np.load(io.BytesIO(answer.body)).tolist()

    def tensor(number: int) -> Any:
        given = {"name": "x", "shape": [2, 1], "datatype": "INT64", "data": [number, number]}
        return worker.post("/v2/models/probe.array/infer", {"inputs": [given]}).json["outputs"][0]["data"]

    with ThreadPoolExecutor(16) as pool:
        tensors = pool.map(tensor, range(40))
        assert list(pool.map(files, range(40))) == [[str(number)] for number in range(40)]
        assert list(pool.map(array, range(40))) == [[[2 * number]] * 2 for number in range(40)]
        assert list(tensors) == [[2 * number] * 2 for number in range(40)]


def test_one_bad_request_fails_alone(worker: Served, tmp_path: Path) -> None:
    gathered = Gathered(worker, tmp_path / "go", "/careful")
    bodies = [{"x": [number]} for number in range(30)]  # 13 is one of them
    bodies[7] = {"x": [1, -7]}
    answers = gathered.answers(gathered.send(*bodies))
    assert [number for number, each in enumerate(answers) if each.status != 200] == [7, 13]
    assert (answers[7].status, answers[7].json) == (400, [{"error": "no negative numbers"}])
    assert answers[13].status == 500
    assert "secret" not in answers[13].body.decode()
    assert [each.json for number, each in enumerate(answers) if number not in (7, 13)] == [
        [number] for number in range(30) if number not in (7, 13)
    ]
    calls = worker.post("/seen", {}).json
    assert calls[:2] == [1, 31]
    assert len(calls) < 30  # by halves, not one by one
    log = worker.log.read_text()
    assert log.count("RuntimeError: secret of the server") == 1  # said once, for the one that it was


def test_what_the_answers_model_refuses_fails_alone_and_a_wrong_count_fails_all(worker: Served, tmp_path: Path) -> None:
    gathered = Gathered(worker, tmp_path / "go", "/wrong_answer")
    answers = gathered.answers(gathered.send({"x": [1]}, {"x": [2, -1]}, {"x": [3]}))
    assert [each.status for each in answers] == [200, 400, 200]
    for each in tmp_path.glob("go*"):
        each.unlink()
    gathered = Gathered(worker, tmp_path / "go", "/miscounted")
    answers = gathered.answers(gathered.send({"x": [1]}, {"x": [2, -1]}, {"x": [3]}))
    assert {(each.status, each.body) for each in answers} == {(500, b'{"error":"miscounted: 3 rows came back for 4"}')}
    assert "miscounted: 3 rows came back for 4 (3 requests)" in worker.log.read_text()


def test_what_cannot_be_joined_is_called_apart(worker: Served, tmp_path: Path) -> None:
    gathered = Gathered(worker, tmp_path / "go", "/several", y=[0])
    sent = gathered.send(
        {"x": [1], "y": [1]}, {"x": [1], "y": [1.5]}, {"x": [2], "y": [2]}, {"x": [1], "y": [[1]]},
        {"x": [3], "y": [3], "factor": 2}, {"x": [4], "y": [4], "factor": 2}, {"x": [], "y": []},
    )  # fmt: skip
    assert [each.json for each in gathered.answers(sent)] == [[2], [2], [4], [2], [12], [16], []]
    assert sorted(worker.post("/seen", {}).json) == [0, 1, 1, 1, 2, 2]


def test_a_method_that_asks_for_its_request_is_called_for_each(worker: Served, tmp_path: Path) -> None:
    gathered = Gathered(worker, tmp_path / "go", "/told")
    sent = gathered.send(*[{"x": [1, 2]}] * 10)
    for number, answer in enumerate(gathered.answers(sent)):
        assert answer.json == [str(number)] * 2
        assert answer.headers["x-seen"] == str(number)
    assert "told asks for the request of its call" in worker.log.read_text()
    assert worker.post("/seen", {}).json == [1, 20, *[2] * 10]
    for each in tmp_path.glob("go*"):
        each.unlink()
    gathered = Gathered(worker, tmp_path / "go", "/state")
    assert [each.json for each in gathered.answers(gathered.send({"x": [1]}, {"x": [2]}))] == [[2], [2]]


def test_who_hung_up_or_was_late_is_left_out(bento: Path, tmp_path: Path) -> None:
    hasty = folder(tmp_path / "bento", SERVICE.read_text(encoding="utf-8").replace('"timeout": 20', '"timeout": 3'))
    with served(hasty, tmp_path / "worker", env={"GO": str(tmp_path / "go")}) as worker:
        gathered = Gathered(worker, tmp_path / "go", "/double")
        gone = worker.connect()
        body = json.dumps({"x": [7]}).encode()
        gone.sendall(b"POST /double HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        gathered.wait(1)
        # A connection of which only one half is closed still waits for its answer; one that is reset does not.
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
        until(lambda: waiting(worker) == 0, "nobody waits")
        late = gathered.send({"x": [8]})
        assert (gathered.first.result().status, late[0].result().status) == (504, 504)
        gathered.go.touch()
        assert worker.post("/double", {"x": [9]}).json == [18]
        assert worker.post("/seen", {}).json == [1, 1]
        gathered.go.unlink()
        # A task for which nobody waits any more is ended, and the next goes on.
        assert worker.post("/double_async", {"x": [-100]}).status == 504
        assert worker.post("/double_async", {"x": [9]}).json == [18]
        assert 'http_response_code="499"' in worker.send("GET", "/metrics").body.decode()


def test_more_than_it_can_do_in_time_is_a_503(bento: Path, tmp_path: Path) -> None:
    env = {"GO": str(tmp_path / "go"), "EKIBEN_SERVER_MAX_QUEUE": "3"}
    with served(bento, tmp_path / "worker", env=env) as worker:
        gathered = Gathered(worker, tmp_path / "go", "/double")
        sent = gathered.send({"x": [1]}, {"x": [2]})
        refused = worker.post("/double", {"x": [3]})
        assert (refused.status, refused.json) == (503, {"error": "process is overloaded"})
        assert refused.headers["retry-after"] == "1"
        assert [each.json for each in gathered.answers(sent)] == [[2], [4]]
        for each in tmp_path.glob("go*"):
            each.unlink()
        # The target of 300 ms is past while the call before is still at work.
        gathered = Gathered(worker, tmp_path / "go", "/hasty")
        late = worker.post("/hasty", {"x": [1]})
        assert (late.status, late.headers["retry-after"]) == (503, "1")
        assert gathered.answers([gathered.first])[0].json == [-100]
        assert worker.post("/hasty", {"x": [1]}).json == [1]


@pytest.mark.parametrize("path", ["/double", "/double_async"])
def test_sigterm_is_waited_for_by_what_is_queued(worker: Served, tmp_path: Path, path: str) -> None:
    gathered = Gathered(worker, tmp_path / "go", path)
    sent = gathered.send(*({"x": [number]} for number in range(12)))
    worker.process.send_signal(signal.SIGTERM)
    until(lambda: refused(worker), "it takes no more")
    assert [each.json for each in gathered.answers(sent)] == [[2 * number] for number in range(12)]
    assert worker.process.wait(PATIENCE_S) == 0


def refused(worker: Served) -> bool:
    try:
        worker.send("GET", "/livez")
    except (OSError, http.client.HTTPException):
        return True
    return False


def test_short_calls_are_made_where_they_stand_and_still_joined(worker: Served) -> None:
    until(lambda: worker.post("/where", {"x": [1]}).json == ["MainThread"], "it is called on the main thread")
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda each: worker.post("/double", {"x": [each]}).json, range(400))) == [
            [2 * each] for each in range(400)
        ]
