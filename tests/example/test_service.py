"""The service, through BentoML's own ASGI application."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.example.conftest import JOB, ROOT, Trained, load

BENTO = ROOT / "bentos" / "employment"


@pytest.fixture(scope="module")
def service(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The service's module, from a folder that has the model where a bento has it."""
    folder = tmp_path_factory.mktemp("bento")
    shutil.copytree(BENTO, folder, dirs_exist_ok=True)
    shutil.copytree(trained.model, folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # BentoML looks for requirements.txt where it is run
        patch.syspath_prepend(folder)
        return load(folder / "service.py", "employment_service")


@pytest.fixture(scope="module")
def client(service: Any) -> Iterator[TestClient]:
    with TestClient(service.Employment.to_asgi()) as client:
        yield client


@pytest.fixture(scope="module")
def sample(trained: Trained) -> dict[str, Any]:
    return trained.json("signature.json")["sample"]


def test_the_sample_gets_the_answer_that_the_job_wrote_down(client: TestClient, sample: dict[str, Any]) -> None:
    answer = client.post(f"/{sample['route']}", json=sample["request"])
    assert answer.status_code == 200
    assert answer.json() == sample["response"]


def test_a_reason_is_given_in_words_and_by_column(sample: dict[str, Any]) -> None:
    assert sample["response"]["decision"] in ("employed", "not employed")
    reasons = sample["response"]["reasons"]
    assert len(reasons) == 3
    sizes = [abs(reason["contribution"]) for reason in reasons]
    assert sizes == sorted(sizes, reverse=True)
    for reason in reasons:
        assert reason["value"] == sample["request"]["person"][reason["column"]]
        assert reason["text"].endswith("raises the chance)" if reason["contribution"] > 0 else "lowers the chance)")


def test_a_batch_is_answered_in_its_order(client: TestClient, sample: dict[str, Any]) -> None:
    person = sample["request"]["person"]
    child = {**person, "AGEP": 8, "SCHL": 5, "MAR": 5, "MIL": 0, "RELP": 2, "ESP": 1}
    answers = client.post("/predict_batch", json={"people": [child, person, child]}).json()
    assert answers[0] == answers[2]
    assert answers[1] == sample["response"]
    assert answers[0]["probability"] < 0.2
    assert answers[0]["decision"] == "not employed"


@pytest.mark.parametrize(
    "change",
    [
        {"AGEP": float("nan")},
        {"AGEP": float("inf")},
        {"AGEP": "48"},
        {"AGEP": 48.5},
        {"AGEP": True},
        {"AGEP": None},
        {"AGEP": [48]},
        {"AGEP": -1},
        {"AGEP": 100},
        {"MAR": 0},
        {"SEX": 1},
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_by_its_name(
    client: TestClient, sample: dict[str, Any], change: dict[str, Any]
) -> None:
    body = json.dumps({"person": {**sample["request"]["person"], **change}})
    answer = client.post("/predict", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["detail"][0]["loc"] == ["person", next(iter(change))]


@pytest.mark.parametrize(
    "body", ["", "{", "null", "[]", "{}", '{"person": null}', '{"person": {}}', '{"person": [1, 2]}', "NaN"]
)
def test_a_body_of_another_shape_is_refused(client: TestClient, body: str) -> None:
    answer = client.post("/predict", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert "detail" in answer.json()


def test_a_batch_is_neither_empty_nor_endless_nor_partly_answered(client: TestClient, sample: dict[str, Any]) -> None:
    person = sample["request"]["person"]
    for people in ([], [person] * 1001, [person, {**person, "AGEP": 200}]):
        assert client.post("/predict_batch", json={"people": people}).status_code == 400
    assert len(client.post("/predict_batch", json={"people": [person] * 1000}).json()) == 1000


def test_the_service_asks_for_what_the_job_learns_from(service: Any, job_modules: Any) -> None:
    asked = service.Person.model_json_schema()["properties"]
    inputs = job_modules["columns"].INPUTS
    assert list(asked) == list(inputs)
    for name, column in inputs.items():
        assert (asked[name]["minimum"], asked[name]["maximum"]) == (column.low, column.high), name


def test_job_and_service_answer_by_the_same_code() -> None:
    assert (JOB / "scoring.py").read_bytes() == (BENTO / "scoring.py").read_bytes()


@pytest.mark.parametrize("folder", [JOB, BENTO], ids=lambda folder: folder.parent.name)
def test_the_requirements_are_those_of_the_lock(folder: Path) -> None:
    from packaging.requirements import Requirement

    def lines(path: Path) -> set[Requirement]:
        text = (line.partition("#")[0].rstrip(" \\\n") for line in path.read_text("utf-8").splitlines())
        return {Requirement(line) for line in text if line and not line.startswith(" ")}

    locked = {}
    for each in lines(ROOT / "requirements.lock"):
        locked.setdefault(each.name, set()).add(str(each.specifier))
    for each in lines(folder / "requirements.txt"):
        assert str(each.specifier).startswith("=="), each
        assert (
            str(each.specifier) in locked.get(each.name, set()) or not each.marker or each.marker.evaluate() is False
        ), each
