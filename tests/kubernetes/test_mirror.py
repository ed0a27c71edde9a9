"""The registry's mirror in MLflow, on a real `mlflow server`: what people see there, both ways, and what goes on without it."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ekiben as ek
from ekiben.errors import ModelFailed
from ekiben.kubernetes import declared
from ekiben.kubernetes.facts import Mlflow
from ekiben.kubernetes.registry import Registry
from tests import mlflow_server
from tests.fakes.http import Server
from tests.fakes.mlflow import Cluster

from .conftest import platform
from .mirrors import DIGEST, aliases, bound, closed, part, says, shown, version, warnings
from .test_handler import Pod

pytestmark = pytest.mark.usefixtures("_telling_anew")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    try:
        mlflow_server.python()
    except (ModelFailed, ek.NotFound) as error:
        pytest.skip(f"an environment with MLflow cannot be made: {error}")
    with mlflow_server.serving(tmp_path_factory.mktemp("mlflow")) as url:
        yield url


@pytest.fixture
def start() -> str:
    """What the names of this test's models begin with, in this try of it."""
    return f"shop-{uuid.uuid4().hex[:8]}.models"


@pytest.fixture
def models(store_url: str, bucket: str, server: str, start: str) -> Registry:
    return bound(store_url, bucket, Mlflow(url=server, models=start))


def test_mlflow_s_own_client_sees_the_version_with_where_it_comes_from(
    models: Registry, server: str, start: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = models.register(version())
    assert models.register(version()) == made
    models.decide("tiny:1", "approved", who="Zoë", why="it is\nbetter")
    models.alias("tiny:1", "champion", who="zoe", why="")
    name = f"{start}.tiny"
    told = mlflow_server.client(
        server,
        f"one = client.get_model_version_by_alias({name!r}, 'champion')\n"
        "print(json.dumps([one.version, one.source, one.tags, client.get_model_version_download_uri(one.name, one.version)]))",
    )
    number, source, tags, download = told
    assert (str(number), source, download) == ("1", made.bento_uri, made.bento_uri)
    assert tags == {
        "ekiben.version": "tiny:1", "ekiben.digest": DIGEST, "ekiben.state": "approved", "ekiben.run": "run-1",
        "ekiben.decided": "approved by Zoë: it is\nbetter", "ekiben.created-by": "Zoë <zoe@example.com>", "ekiben.commit": "abc",
        "ekiben.created-at": made.created_at, "input.points": "b" * 64, "metric.auc": "0.9",
    }  # fmt: skip
    assert warnings(caplog) == []


def test_an_alias_moves_and_those_that_mlflow_has_for_itself_are_left_out(
    models: Registry, server: str, start: str, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 2):
        models.register(version(f"run-{number}"))
        models.decide(f"tiny:{number}", "approved", who="ann", why="")
        for alias in ("champion", "latest", "v1"):
            models.alias(f"tiny:{number}", alias, who="ann", why="")
    assert aliases(server, start) == {"champion": shown(server, start)["tiny:2"]["version"]}
    models.alias("tiny:1", "champion", who="ann", why="back")
    assert aliases(server, start) == {"champion": shown(server, start)["tiny:1"]["version"]}
    assert warnings(caplog) == []


def test_what_is_decided_in_mlflow_is_taken_over(models: Registry, server: str, start: str) -> None:
    for number in range(1, 5):
        models.register(version(f"run-{number}"))
    models.decide("tiny:3", "approved", who="ann", why="")
    assert (models.adopt(), models.decided()) == ([], set())
    there = shown(server, start)
    for number, said in ((1, " Approved"), (3, "rejected"), (4, "perhaps")):
        says(server, there[f"tiny:{number}"], said)
    assert models.decided() == {"tiny"}
    assert sorted((one.id, one.state) for one in models.adopt("tiny")) == [
        ("tiny:1", "approved"),
        ("tiny:3", "rejected"),
    ]
    assert (models.adopt(), models.decided()) == ([], set()), "taken over once"
    assert [models.version(f"tiny:{number}").state for number in (2, 4)] == ["pending", "pending"]
    decisions = {(one.version, one.after): (one.who, one.why) for one in models.audit("tiny")}
    assert decisions[3, "rejected"] == ("somebody in MLflow", "decided in MLflow")
    assert shown(server, start)["tiny:1"]["tags"]["ekiben.state"] == "approved"


def test_a_function_hears_of_what_is_decided_in_mlflow(
    models: Registry, store_url: str, bucket: str, server: str, start: str, tmp_path: Path
) -> None:
    models.register(version())
    pod = Pod(tmp_path, store_url, bucket)
    pod.env["EKIBEN_PLATFORM"] = platform(part(store_url, bucket, Mlflow(url=server, models=start))).to_json()
    says(server, shown(server, start)["tiny:1"], "approved")
    try:
        pod.start()
        (event,) = pod.until(pod.seen)
    finally:
        pod.stop(signal.SIGKILL)
    assert (event["type"], event["subject"], event["data"]) == ("ModelDecided", "tiny:1", {"state": "approved"})
    assert models.version("tiny:1").state == "approved"


def test_what_the_registry_cannot_follow_is_said_when_all_else_is_taken_over(
    models: Registry, server: str, start: str
) -> None:
    for number in (1, 2, 3):
        models.register(version(f"run-{number}"))
        models.decide(f"tiny:{number}", "approved", who="ann", why="")
    models.alias("tiny:2", "champion", who="ann", why="")
    models.decide("tiny:3", "archived", who="ann", why="old")
    for there in shown(server, start).values():
        says(server, there, "rejected")
    with pytest.raises(ek.SpecError, match=r"decided in MLflow cannot be taken over: tiny:2 has the alias champion"):
        models.adopt()
    assert [models.version(f"tiny:{number}").state for number in (1, 2, 3)] == ["rejected", "approved", "archived"]


def test_a_release_goes_on_without_the_server_and_is_shown_when_it_is_back(
    models: Registry, store_url: str, bucket: str, server: str, start: str, caplog: pytest.LogCaptureFixture
) -> None:
    away = bound(store_url, bucket, Mlflow(url=closed(), models=start))
    away.register(version())
    away.decide("tiny:1", "approved", who="ann", why="")
    assert away.alias("tiny:1", "champion", who="ann", why="").aliases == ["champion"]
    (told,) = warnings(caplog)
    assert told.startswith("kubernetes: cannot show tiny:1 in MLflow at http://127.0.0.1:")
    assert "does not answer" in told
    assert "has recorded it all the same" in told
    with pytest.raises(ek.Unavailable, match="does not answer"):
        away.decided()
    assert models.adopt() == []
    there = shown(server, start)["tiny:1"]
    assert there["tags"]["ekiben.state"] == "approved"
    assert aliases(server, start) == {"champion": there["version"]}


def test_a_decision_that_the_mirror_missed_is_shown_later_and_not_undone(
    models: Registry, store_url: str, bucket: str, server: str, start: str
) -> None:
    models.register(version())
    models.decide("tiny:1", "approved", who="ann", why="")
    away = bound(store_url, bucket, Mlflow(url=closed(), models=start))
    away.decide("tiny:1", "rejected", who="bob", why="")
    assert shown(server, start)["tiny:1"]["tags"]["ekiben.state"] == "approved"
    assert models.adopt() == []
    assert shown(server, start)["tiny:1"]["tags"]["ekiben.state"] == "rejected"
    assert models.version("tiny:1").state == "rejected"


def test_a_decision_that_was_told_by_half_is_nobody_else_s(models: Registry, server: str, start: str) -> None:
    models.register(version())
    models.decide("tiny:1", "approved", who="ann", why="")
    there = shown(server, start)["tiny:1"]
    told = {"name": there["name"], "version": there["version"], "key": "ekiben.decided", "value": "pending"}
    mlflow_server.ask(server, "model-versions/set-tag", told)  # as a process leaves it that was killed between the two
    assert models.adopt() == []
    assert len(models.audit("tiny")) == 2
    assert models.decided() == set()


def test_registrations_at_once_are_each_shown_once(
    store_url: str, bucket: str, server: str, start: str, caplog: pytest.LogCaptureFixture
) -> None:
    def register(number: int) -> str:
        return bound(store_url, bucket, Mlflow(url=server, models=start)).register(version(f"run-{number % 3}")).id

    with ThreadPoolExecutor(6) as pool:
        made = set(pool.map(register, range(6)))
    assert made == {"tiny:1", "tiny:2", "tiny:3"}
    if warnings(caplog):  # the server may be overloaded, which is told; then it is repeated
        bound(store_url, bucket, Mlflow(url=server, models=start)).adopt()
    assert set(shown(server, start)) == made


def test_what_two_at_once_have_made_twice_is_one_again(models: Registry, server: str, start: str) -> None:
    models.register(version())
    one = shown(server, start)["tiny:1"]
    tags = [{"key": key, "value": value} for key, value in one["tags"].items()]
    body = {"name": one["name"], "source": one["source"], "tags": tags}
    mlflow_server.ask(server, "model-versions/create", body)
    models.decide("tiny:1", "approved", who="ann", why="")
    assert shown(server, start)["tiny:1"]["version"] == one["version"]


def test_a_version_of_a_registry_that_was_there_before_is_not_taken_for_ours(
    models: Registry, server: str, start: str
) -> None:
    name = f"{start}.tiny"
    mlflow_server.ask(server, "registered-models/create", {"name": name})
    tags = [{"key": "ekiben.version", "value": "tiny:1"}, {"key": "ekiben.digest", "value": "0" * 64}]
    mlflow_server.ask(server, "model-versions/create", {"name": name, "source": "s3://old/bento.tar", "tags": tags})
    models.register(version())
    models.alias(models.decide("tiny:1", "approved", who="ann", why="").id, "champion", who="ann", why="")
    told = mlflow_server.ask(server, "registered-models/alias", name=name, alias="champion")["model_version"]
    assert (told["version"], told["source"]) == ("2", f"s3://lake/bentos/{DIGEST}.tar")


def test_names_that_mlflow_refuses_are_shown_as_it_takes_them(
    models: Registry, server: str, start: str, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = {"größe/p99:ms": 1.5, "../up": 2.0, "a//b": 3.0, "x" * 400: 4.0, "精度": 1e300}
    models.register(version(metrics=metrics, created_by="王" * 1999, lineage={"code": "none", "inputs": []}))
    assert warnings(caplog) == []
    tags = shown(server, start)["tiny:1"]["tags"]
    assert {key: value for key, value in tags.items() if key.startswith("metric.")} == {
        "metric.größe-p99-ms": "1.5", "metric...-up": "2.0", "metric.a--b": "3.0", f"metric.{'x' * 243}": "4.0",
        "metric.精度": "1e+300",
    }  # fmt: skip
    assert tags["ekiben.created-by"] == "王" * 1999


def test_what_is_destroyed_is_one_registry_s_and_no_other_s(
    models: Registry, store_url: str, bucket: str, server: str, start: str
) -> None:
    other = bound(store_url, bucket, Mlflow(url=server, models=f"{start}2"))
    models.register(version())
    models.register(version(model="large"))
    other.adopt("tiny")
    kind, at = declared.KINDS["Models"], Mlflow(url=server, models=start)
    state = {"context": "", "namespace": "shop-dev", "mlflow": at.to_dict(), "models": start}
    assert declared.put(kind, "", state) == state
    assert declared.read(kind, state) == (state, state)
    for _ in range(2):
        declared.delete(kind, "", state)
        assert shown(server, start) == shown(server, start, "large") == {}
    assert set(shown(server, f"{start}2")) == {"tiny:1"}
    gone = {**state, "mlflow": Mlflow(url=closed(), models=start).to_dict()}
    with pytest.raises(ek.Unavailable, match="cannot delete what the registry has shown in MLflow"):
        declared.delete(kind, "", gone)


def test_without_a_mirror_nothing_is_asked(store_url: str, bucket: str, caplog: pytest.LogCaptureFixture) -> None:
    alone = bound(store_url, bucket, Mlflow())
    alone.register(version())
    alone.decide("tiny:1", "approved", who="ann", why="")
    alone.alias("tiny:1", "champion", who="ann", why="")
    assert (alone.adopt(), alone.decided(), warnings(caplog)) == ([], set(), [])


def test_the_server_of_the_stack_is_asked_through_the_api_server(
    store_url: str, bucket: str, server: str, start: str, cluster: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cluster, "behind", server)
    at = Mlflow(url="http://ekiben-mlflow.shop-dev.svc:5000", models=start, service="ekiben-mlflow:5000")
    inside = bound(store_url, bucket, at)
    inside.register(version())
    inside.decide("tiny:1", "approved", who="ann", why="")
    says(server, shown(server, start)["tiny:1"], "rejected")
    assert inside.decided() == {"tiny"}
    assert [(one.id, one.state) for one in inside.adopt()] == [("tiny:1", "rejected")]


def test_a_server_that_is_overloaded_for_a_moment_is_asked_again(
    store_url: str, bucket: str, server: str, start: str, cluster: Server, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(Cluster, "behind", server)
    at = Mlflow(url="http://ekiben-mlflow.shop-dev.svc:5000", models=start, service="ekiben-mlflow:5000")
    cluster.fail = [503, 429]
    bound(store_url, bucket, at).register(version())
    assert warnings(caplog) == []
    assert set(shown(server, start)) == {"tiny:1"}
