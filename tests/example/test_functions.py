"""The three handlers at the edge of the runtime."""

from __future__ import annotations

from typing import Any

import pytest

import ekiben as ek
from ekiben.runtime import Object
from ekiben.testing import EmulatedAws
from tests.example.conftest import ROOT, load

retrain, register, release = (
    load(ROOT / "functions" / name / "main.py", f"function_{name}") for name in ("retrain", "register", "release")
)


class Lake:
    def __init__(self) -> None:
        self.objects: dict[str, str] = {}

    def list(self, prefix: str) -> list[Object]:
        return [Object(key, 1, etag, "") for key, etag in sorted(self.objects.items()) if key.startswith(prefix)]


class Employment:
    def __init__(self) -> None:
        self.there: dict[str, ek.Run] = {}

    def submit(self, job: ek.Job) -> ek.Run:
        return self.there.setdefault(job.id, ek.Run(id=job.id, training="employment", state="running"))

    def run(self, id: str) -> ek.Run:
        return self.there[id]


class Runtime:
    """A platform that has a lake and a training, and nothing that could register or release."""

    def __init__(self) -> None:
        self.lake, self.employment = Lake(), Employment()

    def storage(self, name: str) -> Lake:
        assert name == "lake"
        return self.lake

    def training(self, name: str) -> Employment:
        assert name == "employment"
        return self.employment


@pytest.fixture
def runtime() -> Any:
    return Runtime()


def landed(key: str) -> ek.Event:
    return ek.Event(id=key, type="NewData", source="lake", subject=key)


def test_three_files_and_a_quiet_night_are_one_run(runtime: Any) -> None:
    runtime.lake.objects = {"employment/a.pq": "1", "employment/b.pq": "2", "elsewhere/c.pq": "3"}
    for key in ("employment/a.pq", "employment/b.pq", "employment/a.pq"):
        retrain.handler(landed(key), runtime)
    retrain.handler(ek.Event(id="night", type="Schedule", source="retrain", subject="0 3 * * *"), runtime)
    assert len(runtime.employment.there) == 1


@pytest.mark.parametrize("change", [{"employment/a.pq": "2"}, {"employment/b.pq": "1"}])
def test_other_data_is_another_run(runtime: Any, change: dict[str, str]) -> None:
    runtime.lake.objects = {"employment/a.pq": "1"}
    retrain.handler(landed("employment/a.pq"), runtime)
    runtime.lake.objects |= change
    retrain.handler(landed("employment/a.pq"), runtime)
    assert len(runtime.employment.there) == 2


def test_in_a_bucket_of_s3_it_is_the_same(runtime: Any, emulated_aws: EmulatedAws) -> None:
    emulated_aws.s3.create_bucket(Bucket="lake")
    facts = {"region": emulated_aws.environment["AWS_REGION"], "uri": "s3://lake"}
    part = ek.Part(name="lake", kind="storage", provider="aws", ref="lake", facts=facts)
    lake = ek.connect(ek.Platform(project="employment", stack="test", parts={"lake": part})).storage("lake")
    runtime.lake = lake
    for body in (b"1", b"1", b"2"):
        lake.put("employment/a.pq", body)
        retrain.handler(landed("employment/a.pq"), runtime)
    assert len(runtime.employment.there) == 2


def test_without_data_there_is_no_run(runtime: Any) -> None:
    assert "nothing" in retrain.handler(landed("employment/a.pq"), runtime)
    assert not runtime.employment.there


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_what_did_not_succeed_is_not_registered(runtime: Any, state: Any) -> None:
    runtime.employment.there["r"] = ek.Run(id="r", training="employment", state=state, reason="a bad file")
    said = register.handler(ek.Event(id="1", type="TrainingEnded", source="employment", subject="r"), runtime)
    assert said == f"r {state}, so there is nothing to register: a bad file"


@pytest.mark.parametrize("state", ["rejected", "archived"])
def test_what_is_not_approved_is_not_released(runtime: Any, state: str) -> None:
    event = ek.Event(id="1", type="ModelDecided", source="models", subject="employment:1", data={"state": state})
    assert "nothing is released" in release.handler(event, runtime)
