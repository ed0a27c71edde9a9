"""endpoints, invoke, functions, events, publish, replay, status."""

from __future__ import annotations

import io
import re

import pytest

from ekiben.errors import Unavailable
from ekiben.records import LoggedPrediction, Revision

from .shelf import runtime as shelf


def test_invoke_prints_the_answer(ek, platform) -> None:
    said = ek("invoke", "income-api", "--data", '{"ort": "Zürich", "n": [1, 2.5, null]}')
    assert said.json == {"echo": {"ort": "Zürich", "n": [1, 2.5, None]}}
    assert "Zürich" in said.out
    assert "revision v1-abc, 1.2 ms, held while an instance started" in said.err


def test_invoke_with_json_prints_the_record(ek, platform) -> None:
    shown = ek("invoke", "income-api", "--data", "1", "--revision", "candidate", "--json").json
    assert shown == {
        "endpoint": "income-api",
        "revision": "candidate",
        "body": {"echo": 1},
        "latency_ms": 1.25,
        "cold": True,
        "id": "",
    }


def test_the_last_predictions_of_an_endpoint(ek, platform) -> None:
    assert "no predictions yet" in ek("predictions", "income-api").err
    for number, (request, size) in enumerate([('{"ort":\n "Zürich"}', 20), ("", 5_000_000), ("y" * 100, 100)]):
        shelf.STATE["predictions"].append(
            LoggedPrediction(
                id=f"{number}", time="2026-01-02T03:04:05.678Z", endpoint="income-api", revision="v1-abc",
                model_version="income:1", route="predict", status=200, latency_ms=1.25, request=request,
                response="", request_bytes=size, response_bytes=-1, request_sha256="0" * 64,
            )
        )  # fmt: skip
    shown = ek("predictions", "income-api").out.splitlines()
    assert '{"ort": "Zürich"}' in shown[1]
    assert "2026-01-02 03:04:05" in shown[1]
    assert "(5000000 bytes)" in shown[2]
    assert "(streamed)" in shown[2]
    assert shown[3].count("y") == 59
    assert [row["id"] for row in ek("predictions", "income-api", "--last", "2", "--json").json] == ["0", "1"]
    assert ek("predictions", "income-api", "--last", "0").code == 2


def test_data_comes_from_a_file_or_from_standard_input(ek, platform, tmp_path, monkeypatch) -> None:
    path = tmp_path / "request é.json"
    path.write_text('{"a": 1}', encoding="utf-8")
    assert ek("invoke", "income-api", "-d", f"@{path}").json == {"echo": {"a": 1}}
    monkeypatch.setattr("sys.stdin", io.StringIO('{"b": 2}'))
    assert ek("invoke", "income-api", "-d", "-").json == {"echo": {"b": 2}}


@pytest.mark.parametrize(
    "text", ["", "{", "{'a': 1}", '{"a": NaN}', "[Infinity]", '"\udcff"', "[" * 200_000, "@/nowhere/x.json"]
)
def test_bad_json_is_refused_before_a_call(ek, platform, text) -> None:
    said = ek("invoke", "income-api", "--data", text)
    assert (said.code, said.out) == (3, "")
    assert "Traceback" not in said.err
    assert "unexpected" not in said.err


def test_a_file_that_is_not_utf8(ek, platform, tmp_path) -> None:
    (tmp_path / "x").write_bytes(b'{"a": "\xff"}')
    said = ek("invoke", "income-api", "--data", f"@{tmp_path / 'x'}")
    assert said.code == 3
    assert "UTF-8" in said.err


def test_the_place_of_a_mistake_in_json_is_said(ek, platform) -> None:
    assert "line 2, column 3" in ek("invoke", "income-api", "--data", '{"a": 1,\n  x}').err


def test_a_refusal_of_the_model_and_its_failure_differ(ek, platform) -> None:
    assert ek("invoke", "income-api", "--data", '{"bad": true}').code == 3
    said = ek("invoke", "income-api", "--data", '{"crash": true}')
    assert said.code == 6
    assert "ZeroDivisionError" in said.err


def test_a_function_is_invoked_by_name(ek, platform) -> None:
    assert ek("invoke", "retrain", "--data", '{"a": 1}').json == {"called": {"a": 1}}
    assert ek("invoke", "retrain", "--data", "[1]").code == 3


def test_endpoints(ek, platform) -> None:
    said = ek("endpoints")
    assert said.out == "income-api  http://127.0.0.1:1/income-api\n"
    assert "ekiben release" in said.err
    shelf.STATE["revisions"] = [
        Revision(
            id="v2-bb", endpoint="income-api", version="income:2", digest="b", state="ready", weight=100.0, instances=2
        )
    ]
    assert re.search(r"^v2-bb +income:2 +100 % +ready +2 +7 +1", ek("endpoints", "income-api").out, re.MULTILINE)
    shown = ek("endpoints", "--json").json
    assert shown[0]["revisions"][0]["metrics"]["requests"] == 7
    assert ek("endpoints", "other").code == 5


def test_functions_their_deliveries_and_dead_letters(ek, platform, delivery) -> None:
    assert ek("functions", "--json").json[0]["deliveries"] == {"waiting": 0, "running": 0, "done": 0, "dead": 0}
    delivery("d1", "done")
    delivery("d2", "dead", error="Traceback...\nKeyError: 'é'")
    assert re.search(r"^retrain +0 +0 +1 +1 ", ek("functions").out, re.MULTILINE)
    assert [entry["id"] for entry in ek("functions", "retrain", "--json").json] == ["d1", "d2"]
    said = ek("functions", "retrain", "--state", "dead")
    assert "KeyError: 'é'" in said.out
    assert "d1" not in said.out
    assert [entry["id"] for entry in ek("functions", "--state", "dead", "--json").json] == ["d2"]
    assert ek("functions", "retrain", "--state", "odd").code == 2


def test_replay(ek, platform, delivery) -> None:
    assert "no dead letters" in ek("replay", "retrain").err
    delivery("d1", "dead")
    delivery("d2", "dead")
    assert ek("replay", "retrain", "d2", "--json").json == ["d2"]
    assert ek("replay", "retrain", "--json").json == ["d1"]
    assert ek("replay", "retrain", "d9").code == 5


def test_events_are_listed_once_with_who_had_them(ek, platform, delivery) -> None:
    assert ek("events", "--json").json == []
    delivery("d1", "done")
    delivery("d2", "dead", "TrainingEnded")
    found = ek("events", "--json").json
    assert [entry["type"] for entry in found] == ["TrainingEnded", "NewData"]
    assert found[0]["deliveries"] == {"retrain": "dead"}
    assert "données/é 1.csv" in ek("events", "NewData").out
    assert len(ek("events", "--limit", "1", "--json").json) == 1


def test_publish(ek, platform) -> None:
    said = ek(
        "publish", "DriftFound", "--subject", "income:3", "--data", '{"column": "âge"}', "--id", "drift-1", "--json"
    )
    assert said.json["id"] == "drift-1"
    assert shelf.STATE["events"][0].data == {"column": "âge"}
    assert ek("publish", "DriftFound", "--data", "[1]").code == 3
    assert ek("publish", "DriftFound", "--data", "{").code == 3
    assert len(shelf.STATE["events"]) == 1


def test_status(ek, platform, delivery, version) -> None:
    version(1, "pending")
    delivery("d1", "dead")
    said = ek("status")
    assert said.code == 0
    assert said.out.startswith("shop/local\n")
    assert "1 pending" in said.out
    assert "1 dead letters" in said.out
    assert {part["name"]: part["kind"] for part in ek("status", "--json").json["parts"]}["lake"] == "storage"


def test_status_of_what_does_not_answer_exits_with_5(ek, platform) -> None:
    shelf.STATE["raise"] = {"endpoint": Unavailable("shelf", "call", "nothing answers")}
    said = ek("status", "--json")
    assert said.code == 5
    states = {part["name"]: part["state"] for part in said.json["parts"]}
    assert states["income-api"] == "fail"
    assert states["lake"] == "ok"
    assert "income-api" in said.err
