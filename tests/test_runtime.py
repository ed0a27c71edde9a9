"""The run face: what `connect` takes and refuses, and what `local` makes of the station's answers."""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ekiben as ek
from ekiben import runtime as contracts
from ekiben.local import SUPPORT, runtime as local
from ekiben.records import Event, Job, ModelVersion, Part, Platform, Revision, Run
from ekiben.runtime import Runtime, connect
from tests.fakes.http import Handler, Server, serving

VERSION = ModelVersion(
    model="tiny", version=0, key="run-1", digest="0" * 64, bento_uri="x", created_at="", created_by="me"
)


def part(name: str, kind: Any, provider: str = "local", **facts: Any) -> Part:
    return Part(name=name, kind=kind, provider=provider, ref=f"p/s/{kind}/{name}", facts=facts)


def platform(*parts: Part) -> Platform:
    return Platform(project="p", stack="s", parts={one.name: one for one in parts})


def test_connect_takes_a_record_its_json_and_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = platform(part("lake", "storage", uri="memory://x"))
    file = tmp_path / "platform.json"
    file.write_text(record.to_json(), "utf-8")
    for given in (record, record.to_json(), f"\n {record.to_json()}", file, str(file)):
        assert connect(given).platform == record
    for text in (record.to_json(), str(file)):
        monkeypatch.setenv("EKIBEN_PLATFORM", text)
        assert connect().platform == record


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "EKIBEN_PLATFORM"), ("", "cannot be read"), ("nowhere.json", "nowhere.json"), (".", "read"), ("a\0b", "read"),
        ("{", "JSON"), ("{}", "'project'"),
    ],
)  # fmt: skip
def test_connect_says_what_is_wrong(given: str | None, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EKIBEN_PLATFORM", raising=False)
    with pytest.raises(ek.SpecError, match=said):
        connect(given)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "platform.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(ek.SpecError):
        connect(tmp_path / "platform.json")


def test_binding_by_name() -> None:
    lake, spare = part("lake", "storage", uri="memory://x"), part("spare", "storage", uri="memory://y")
    assert connect(platform(lake)).storage().part is lake
    assert connect(platform(lake, spare)).storage("spare").part is spare
    for name, said in (("", "there is lake, spare"), ("nix", "no such component; there is lake, spare")):
        with pytest.raises(ek.NotFound, match=said):
            connect(platform(lake, spare)).storage(name)
    with pytest.raises(ek.NotFound, match="there is none"):
        connect(platform(lake)).endpoint("lake")
    assert connect(platform(lake, spare)).names("storage") == ["lake", "spare"]


def test_an_unknown_provider_is_named() -> None:
    with pytest.raises(
        ek.SpecError,
        match="storage 'lake' is of the provider 'moon', which is not installed; there are: aws, kubernetes, local",
    ):
        connect(platform(part("lake", "storage", "moon"))).storage()
    with pytest.raises(ek.SpecError, match="moon"):
        connect(platform(part("lake", "storage", "moon"))).publish(Event(id="1", type="Mine", source="me"))


@pytest.mark.parametrize(
    ("record", "call", "said"),
    [
        (part("lake", "storage"), lambda r: r.storage(), "names no storage"),
        (part("models", "registry", uri="file:///lake"), lambda r: r.registry(), "/registry/NAME"),
        (part("fit", "training"), lambda r: r.training().runs(), "does not name its station"),
        (part("api", "endpoint"), lambda r: r.endpoint().invoke({}), "does not name its station"),
    ],
)
def test_a_part_without_its_facts_is_named(record: Part, call: Callable[[Runtime], Any], said: str) -> None:
    with pytest.raises(ek.SpecError, match=said):
        call(connect(platform(record)))


def test_local_answers_every_feature() -> None:
    assert set(SUPPORT.features) == set(ek.Feature)
    for answer in SUPPORT.features.values():
        assert answer is True or (answer and not answer.endswith("."))


def test_local_has_every_class_of_the_run_face() -> None:
    for kind in ("Storage", "Registry", "Training", "Endpoint", "Function"):
        made = getattr(local, kind)(part("x", kind.lower(), uri="memory://x/registry/x"), platform())
        assert isinstance(made, getattr(contracts, kind))


class Station(Handler):
    """Answers what the test has laid down, and keeps what it was asked."""

    answers: dict[str, tuple[int, Any, dict[str, str]]]
    asked: list[tuple[str, Any]]

    def answer(self, path: str, query: dict[str, str], body: bytes) -> None:
        assert self.headers["Authorization"] == "Bearer token"
        target = f"{self.command} {self.path}"
        self.asked.append((target, json.loads(body) if body else None))
        status, answer, headers = self.answers.get(target, (404, {"error": {"type": "NotFound", "provider": "local",
            "operation": target, "why": "nothing is here", "remedy": ""}}, {}))  # fmt: skip
        self.reply(status, answer if isinstance(answer, bytes) else json.dumps(answer).encode(), headers)


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Server]:
    Station.answers, Station.asked = {}, []
    with serving(Station) as server, (tmp_path / "station.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (tmp_path / "station.json").write_text(json.dumps({"url": server.url}))
        (tmp_path / "token").write_text("token")
        yield server


@pytest.fixture
def used(tmp_path: Path, station: Server) -> Runtime:
    facts = {"station": str(tmp_path)}
    (tmp_path / "lake").mkdir()
    return connect(
        platform(
            part("fit", "training", **facts), part("api", "endpoint", **facts), part("hook", "function", **facts),
            part("lake", "storage", uri=(tmp_path / "lake").as_uri()),
            part("models", "registry", uri=(tmp_path / "lake").as_uri() + "/registry/models", **facts),
        )
    )  # fmt: skip


def lay(target: str, answer: Any = None, status: int = 200, **headers: str) -> None:
    Station.answers[target] = (
        status,
        {} if answer is None else answer,
        {k.replace("_", "-"): v for k, v in headers.items()},
    )


def test_training(used: Runtime) -> None:
    run = Run(id="a/b", training="fit", state="running")
    lay("POST /v1/trainings/fit/runs", run.to_dict())
    lay("GET /v1/trainings/fit/runs/a%2Fb", run.to_dict())
    lay("GET /v1/trainings/fit/runs", {"runs": [run.to_dict()]})
    lay("POST /v1/trainings/fit/runs/a%2Fb/cancel", run.to_dict())
    training = used.training()
    assert training.submit(Job(id="a/b", params={"é": 1})) == training.run("a/b") == training.cancel("a/b") == run
    assert training.runs() == [run]
    assert Station.asked[0][1] == {"id": "a/b", "inputs": {}, "params": {"é": 1}}
    with pytest.raises(ek.NotFound):
        training.run("../x")
    with pytest.raises(ek.SpecError, match="JSON"):
        training.submit(Job(id="nan", params={"x": float("nan")}))
    assert len(Station.asked) == 5


def test_logs_are_lines_whatever_the_chunks(used: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "FOLLOW_PAUSE_S", 0.0)
    log = "one\n駅弁\n\nlast".encode()
    cuts = [0, 2, 5, 6, 6, 11, len(log)]
    for start, end in zip(cuts, cuts[1:], strict=False):
        if start < end:
            lay(
                f"GET /v1/trainings/fit/runs/r/log?offset={start}",
                log[start:end],
                Ekiben_Offset=str(end),
                Ekiben_Ended="0",
            )
    end = len(log)
    lay(f"GET /v1/trainings/fit/runs/r/log?offset={end}", b"", Ekiben_Offset=str(end), Ekiben_Ended="1")
    for follow in (False, True):
        assert list(used.training().logs("r", follow=follow)) == ["one", "駅弁", "", "last"]
    with pytest.raises(ek.NotFound):
        list(used.training().logs("nix"))


def test_an_endpoint(used: Runtime) -> None:
    revision = Revision(id="v1-0", endpoint="api", version="tiny:1", digest="0", state="ready")
    lay("POST /v1/endpoints/api/revisions", revision.to_dict())
    lay("GET /v1/endpoints/api/revisions", {"revisions": [revision.to_dict()]})
    lay("PUT /v1/endpoints/api/weights", {"revisions": [revision.to_dict()]})
    lay("DELETE /v1/endpoints/api/revisions/v1-0")
    lay("GET /v1/endpoints/api/metrics", {"metrics": [{"revision": "v1-0", "requests": 3}]})
    api = used.endpoint()
    assert api.deploy(VERSION, tag="next") == revision
    assert api.revisions() == api.shift({"v1-0": 100}) == [revision]
    api.retire("v1-0")
    assert api.metrics()[0].requests == 3
    assert Station.asked[0][1] == {"version": VERSION.to_dict(), "tag": "next"}


def test_invoke(used: Runtime) -> None:
    lay("POST /endpoints/api/predict", [1, None], Ekiben_Revision="v1-0", Ekiben_Cold="1")
    lay("POST /endpoints/api@next/v2/models/é".replace("é", "%C3%A9"), b"", Ekiben_Revision="v2-0")
    made = used.endpoint().invoke({"x": "駅"})
    assert (made.endpoint, made.revision, made.body, made.cold) == ("api", "v1-0", [1, None], True)
    assert made.latency_ms > 0
    made = used.endpoint().invoke(None, route="/v2/models/é", revision="next")
    assert (made.revision, made.body, made.cold) == ("v2-0", None, False)
    assert [body for _, body in Station.asked] == [{"x": "駅"}, None]
    for payload in ({"x": float("nan")}, {"x": {1}}, object()):
        with pytest.raises(ek.SpecError, match="payload"):
            used.endpoint().invoke(payload)
    assert len(Station.asked) == 2


@pytest.mark.parametrize(
    ("status", "answer", "error", "said"),
    [
        (400, {"error": "1 validation error: x"}, ek.SpecError, "refuses .*'predict'.*400.*1 validation error: x"),
        (422, {"detail": "x is missing"}, ek.SpecError, "x is missing"),
        (400, {"detail": [{"loc": ["x", "AGEP"], "msg": "low"}, {"msg": "bad"}]}, ek.SpecError, r"x\.AGEP: low; bad$"),
        (400, {"detail": [{"loc": ["a", i], "msg": "no"} for i in range(9)]}, ek.SpecError, "a.4: no; and 4 more$"),
        (400, {"error": "odd", "detail": [1]}, ek.SpecError, "odd"),
        (404, b"Not Found", ek.SpecError, "404"),
        (413, {"error": {"type": "SpecError", "message": "too large"}}, ek.SpecError, "too large"),
        (500, {"error": "boom"}, ek.ModelFailed, "failed .*boom"),
        (500, b"<html>", ek.ModelFailed, "500"),
        (503, b"", ek.Unavailable, "busy"),
        (401, {"error": {"type": "AccessDenied", "why": "no token"}}, ek.AccessDenied, "no token"),
        (200, b"<html>", ek.ModelFailed, "not JSON"),
    ],
)  # fmt: skip
def test_what_the_model_says_is_passed_on(
    used: Runtime, status: int, answer: Any, error: type[Exception], said: str
) -> None:
    lay("POST /endpoints/api/predict", answer, status)
    with pytest.raises(error, match=said):
        used.endpoint().invoke({})


def test_a_function(used: Runtime) -> None:
    lay("POST /functions/hook", {"result": {"a": 1}})
    lay("GET /v1/functions/hook/deliveries?state=dead", {"deliveries": [{"id": "1"}]})
    lay("POST /v1/functions/hook/deliveries/1%2F2/replay")
    lay("GET /v1/functions/hook/log", "é\n\nb".encode())
    hook = used.function()
    assert hook.call({"x": 1}) == {"a": 1}
    assert hook.deliveries("dead") == [{"id": "1"}]
    hook.replay("1/2")
    assert list(hook.logs()) == ["é", "", "b"]
    lay("GET /v1/functions/hook/log", None, 404)
    with pytest.raises(ek.ProviderError):
        list(hook.logs())


def test_decisions_reach_the_station(used: Runtime) -> None:
    lay("POST /v1/events")
    made = used.registry().register(VERSION)
    for _ in range(2):
        used.registry().decide(made.id, "approved", who="me", why="")
    used.publish(Event(id="mine", type="Mine", source="me"))
    first, second, own = (body for _, body in Station.asked)
    assert first == second
    assert (first["type"], first["source"], first["subject"]) == ("ModelDecided", "models", "tiny:1")
    assert re.fullmatch(r"models-tiny-1-00000002-\d{20}", first["id"])
    assert own["id"] == "mine"
    with pytest.raises(ek.NotFound, match="station"):
        connect(platform(used.platform.parts["lake"])).publish(Event(id="x", type="Mine", source="me"))


def test_without_a_station_a_decision_is_recorded_and_the_error_says_so(used: Runtime, tmp_path: Path) -> None:
    made = used.registry().register(VERSION)
    (tmp_path / "station.lock").unlink()
    with pytest.raises(
        ek.Unavailable, match="recorded it, but the station of .* does not run.*then repeat the same call"
    ):
        used.registry().decide(made.id, "approved", who="me", why="")
    assert used.registry().version(made.id).state == "approved"
