"""The MLflow server that a stack runs, where the rig's does: its pod on the real cluster, and the registry's versions in it.

What the mirror itself does, on a server of this machine, is in tests/kubernetes/test_mirror.py.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import ekiben as ek
from tests.waiting import until

from .conftest import Rig
from .test_registry import version as recorded

if TYPE_CHECKING:
    from ekiben.kubernetes.client import Cluster
    from ekiben.kubernetes.facts import Mlflow

NAME = "ekiben-mlflow"
# As somebody in the cluster would: with MLflow's own client, and the name of the Service.
PROGRAM = """\
import json, mlflow, sys
url, name = sys.argv[1:]
one = mlflow.MlflowClient(url, url).get_model_version_by_alias(name, "champion")
print(json.dumps([one.source, one.tags]))
"""


def version(model: str, key: str) -> ek.ModelVersion:
    """MLflow takes no version whose source is a file."""
    return replace(recorded(model, key), bento_uri=f"s3://lake/bentos/{key}.tar")


class Server:
    """The server of the rig's stack, as everybody outside reaches it: through the API server."""

    def __init__(self, rig: Rig) -> None:
        from ekiben.kubernetes.client import Cluster
        from ekiben.kubernetes.facts import RegistryFacts, facts_of

        facts = facts_of(rig.platform.parts["models"], RegistryFacts)
        self.at: Mlflow = facts.mlflow
        self.cluster: Cluster = Cluster(facts.namespace)

    def ask(self, method: str, path: str, body: Any = None, **query: str) -> dict[str, Any]:
        """What its REST API answers."""
        data = json.dumps(body).encode() if body is not None else b""
        told = self.cluster.proxied(
            self.at.service, method, f"api/2.0/mlflow/{path}", "ask MLflow", body=data,
            headers={"content-type": "application/json"}, timeout_s=60, query=query,
        )  # fmt: skip
        assert told.status == 200, told
        return dict(json.loads(told.body))

    def name(self, model: str) -> str:
        return f"{self.at.models}.{model}"

    def shown(self, model: str) -> dict[str, dict[str, Any]]:
        """Version -> what MLflow has of it, with "tags" as a dict."""
        found = self.ask("GET", "model-versions/search", filter=f"name = '{self.name(model)}'").get(
            "model_versions", ()
        )
        told = [{**one, "tags": {tag["key"]: tag["value"] for tag in one["tags"]}} for one in found]
        by_version = {one["tags"]["ekiben.version"]: one for one in told}
        assert len(by_version) == len(told), "each of ours is one of theirs"
        return by_version

    def says(self, ref: str, state: str) -> None:
        """Somebody sets the state of a version in MLflow's pages."""
        there = self.shown(ref.partition(":")[0])[ref]
        body = {"name": there["name"], "version": there["version"], "key": "ekiben.state", "value": state}
        self.ask("POST", "model-versions/set-tag", body)

    def pod(self) -> dict[str, Any]:
        """Its pod, once it is ready and no other is there."""
        return until(self._pod, "one pod that is ready")

    def _pod(self) -> dict[str, Any]:
        pods = list(self.cluster.list("Pod", "look", labels={"app.kubernetes.io/name": NAME}))
        if len(pods) != 1 or "deletionTimestamp" in pods[0]["metadata"]:
            return {}
        ready = [one for one in pods[0]["status"].get("conditions") or () if one["type"] == "Ready"]
        return pods[0] if ready and ready[0]["status"] == "True" else {}


@pytest.fixture
def server(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Server:
    if rig.without_mlflow:
        pytest.skip(rig.without_mlflow)
    from ekiben.kubernetes import mlflow

    monkeypatch.setattr(mlflow, "_away", {})
    return Server(rig)


@pytest.fixture
def inside(rig: Rig, server: Server) -> Iterator[Any]:
    """What a program prints in a pod of the stack's own, which has MLflow, and reaches whom trainings reach."""
    from ekiben.kubernetes.facts import COMPONENT
    from ekiben.kubernetes.pods import pod

    made: list[str] = []

    def run(program: str, *arguments: str) -> str:
        image = server.pod()["spec"]["containers"][0]["image"]
        name = f"reader-{uuid.uuid4().hex[:8]}"
        spec = pod(
            "reader", image, vcpu=1, idle_vcpu=0.05, memory_mib=1024, command=["python3", "-c", program, *arguments]
        )
        thing = {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {COMPONENT: "tiny"}},
            "spec": {**spec, "restartPolicy": "Never"},
        }  # fmt: skip
        server.cluster.create("Pod", thing, "run a program")
        made.append(name)

        def ended() -> str:
            phase = server.cluster.get("Pod", name, "look")["status"]["phase"]
            return phase if phase in ("Succeeded", "Failed") else ""

        phase = until(ended)
        said = b"\n".join(server.cluster.log(name, "read what it says")).decode()
        assert phase == "Succeeded", said
        return said

    yield run
    for name in made:
        server.cluster.delete("Pod", name, "clean up")


def test_its_pod_runs_without_ever_having_been_started_again(server: Server) -> None:
    pod = server.pod()
    (container,) = pod["status"]["containerStatuses"]
    assert container["restartCount"] == 0, container
    assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"]


def test_versions_are_seen_through_the_api_server_and_by_mlflow_s_client_in_the_cluster(
    rig: Rig, server: Server, inside: Any, model: str
) -> None:
    registry = rig.runtime.registry("models")
    made = registry.register(version(model, "a"))
    registry.decide(made.id, "approved", who="Zoë", why="駅弁")
    registry.alias(made.id, "champion", who="Zoë", why="")
    there = server.shown(model)[made.id]
    told = {
        "ekiben.version": made.id, "ekiben.digest": made.digest, "ekiben.state": "approved", "metric.auc": "0.9",
        "ekiben.decided": "approved by Zoë: 駅弁",
    }  # fmt: skip
    assert there["tags"].items() >= told.items()
    assert json.loads(inside(PROGRAM, server.at.url, server.name(model)).splitlines()[-1]) == [
        made.bento_uri,
        there["tags"],
    ]


def test_what_is_decided_there_is_adopted_and_a_function_takes_it_over_by_itself(
    rig: Rig, server: Server, model: str
) -> None:
    registry = rig.runtime.registry("models")
    for key in "ab":
        registry.register(version(model, key))
    server.says(f"{model}:1", "approved")
    registry.adopt(model)
    assert registry.version(f"{model}:1").state == "approved"
    server.says(f"{model}:2", "rejected")
    until(lambda: registry.version(f"{model}:2").state == "rejected", "the function `witness` looks once a minute")
    decided = {(one.version, one.after): (one.who, one.why) for one in registry.audit(model)}
    for key in ((1, "approved"), (2, "rejected")):
        assert decided[key] == ("somebody in MLflow", "decided in MLflow")
    until(lambda: {e["subject"] for e in rig.seen("ModelDecided")} >= {f"{model}:1", f"{model}:2"})
    assert server.shown(model)[f"{model}:2"]["tags"]["ekiben.decided"].startswith("rejected")


def test_its_data_outlives_its_pod_and_what_came_meanwhile_is_shown_afterwards(
    rig: Rig, server: Server, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ekiben.kubernetes import mlflow

    registry, before = rig.runtime.registry("models"), server.pod()["metadata"]
    first = registry.register(version(model, "a"))
    there = server.shown(model)
    assert set(there) == {first.id}
    server.cluster.delete("Pod", before["name"], "have it made anew")
    second = registry.register(version(model, "b"))
    assert server.pod()["metadata"]["uid"] != before["uid"]

    def reached() -> dict[str, dict[str, Any]]:
        with suppress(AssertionError, ek.Unavailable):  # the Service may still lead to nobody
            return server.shown(model)
        return {}

    assert until(reached)[first.id] == there[first.id]
    monkeypatch.setattr(mlflow, "_away", {})  # the minute for which one that did not answer is left alone
    assert registry.adopt(model) == []
    assert set(server.shown(model)) == {first.id, second.id}
