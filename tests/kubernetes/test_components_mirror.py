"""The components of a registry's mirror: an MLflow that is there, or one that the stack runs, with what guards it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import ekiben as ek
from ekiben import components
from ekiben.errors import SpecError, Unsupported
from ekiben.kubernetes.components import Function, Registry, Storage
from ekiben.kubernetes.facts import Mlflow, RegistryFacts, facts_of

from .program import NAMESPACE, Recorded, not_restricted, pods, rules, run

IMAGE = {"ekiben:mlflowImage": "registry.example/mlflow:v3.17.2"}
GIVEN = {"ekiben:mlflowUri": "https://mlflow.example/team/", "ekiben:mlflowSecret": "mlflow"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "function").mkdir()
    (tmp_path / "function" / "main.py").write_text("def handler(event, runtime):\n    return None\n", encoding="utf-8")
    return tmp_path


def made(project: Path, config: Mapping[str, str], mirror: Any = "where-supported") -> Recorded:
    def program() -> list[Any]:
        lake = Storage("lake")
        spec = ek.RegistrySpec(mirror=mirror)
        return [lake, Registry("models", spec, storage=lake), Registry("others", spec, storage=lake)]

    return run(program, project, config)


def mlflow(recorded: Recorded, name: str = "models") -> Mlflow:
    return facts_of(recorded.parts[name], RegistryFacts).mlflow


def test_a_stack_runs_one_server_for_all_its_registries(project: Path) -> None:
    recorded = made(project, {**IMAGE, "ekiben:storageClass": "fast", "ekiben:pullSecret": "pulls"}, "required")
    url, service = f"http://ekiben-mlflow.{NAMESPACE}.svc:5000", "ekiben-mlflow:5000"
    assert mlflow(recorded) == Mlflow(url=url, models="models", service=service)
    assert mlflow(recorded, "others") == Mlflow(url=url, models="others", service=service)
    assert not recorded.all("Models"), "what is in it goes with the namespace"
    name = f"{NAMESPACE}-ekiben-mlflow"
    spec = recorded.one("StatefulSet", name).inputs["spec"]
    shape = spec["template"]["spec"]
    (container,) = shape["containers"]
    assert container["image"] == IMAGE["ekiben:mlflowImage"]
    command = " ".join(container["command"])
    assert "--backend-store-uri sqlite:////data/mlflow.db" in command
    assert "--no-serve-artifacts" in command
    assert not any("valueFrom" in one for one in container["env"]), "it has no key of the store"
    claim = recorded.one("PersistentVolumeClaim", name).inputs["spec"]
    assert (claim["storageClassName"], claim["resources"]["requests"]["storage"]) == ("fast", "1Gi")
    assert shape["volumes"][-1] == {"name": "data", "persistentVolumeClaim": {"claimName": "ekiben-mlflow"}}
    assert (
        recorded.one("core/v1:Service", name).inputs["spec"]["selector"].items()
        <= spec["template"]["metadata"]["labels"].items()
    )
    account = recorded.one("ServiceAccount", name).inputs
    assert (account["automountServiceAccountToken"], account["imagePullSecrets"]) == (False, [{"name": "pulls"}])


def test_a_server_that_has_ended_is_started_again_with_its_tables_brought_up_to_date(
    project: Path, tmp_path: Path
) -> None:
    spec = made(project, IMAGE).one("StatefulSet", f"{NAMESPACE}-ekiben-mlflow").inputs["spec"]["template"]["spec"]
    command = [one.replace("/tmp/", f"{tmp_path}/") for one in spec["containers"][0]["command"]]
    mlflow = tmp_path / "mlflow"
    mlflow.write_text('#!/bin/sh\necho "$@"\n[ "$1" = server ]\n', encoding="utf-8")  # its tables are as they should be
    mlflow.chmod(0o755)

    def said() -> list[str]:
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.splitlines()

    served = (
        "server --host 0.0.0.0 --port 5000 --workers 1 --backend-store-uri sqlite:////data/mlflow.db --no-serve-artifacts "
        "--default-artifact-root /data/none"
    )
    assert said() == [served]
    assert said() == ["db upgrade sqlite:////data/mlflow.db", served]


def test_its_pod_passes_pod_security_restricted_and_lets_in_the_stack_alone(project: Path) -> None:
    recorded = made(project, IMAGE)
    for name, spec in pods(recorded):
        assert not_restricted(spec) == [], name
        assert spec["automountServiceAccountToken"] is False
        assert spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"]
    guard = recorded.one("NetworkPolicy", f"{NAMESPACE}-ekiben-mlflow").inputs["spec"]
    assert (guard["policyTypes"], "egress" in guard) == (["Ingress"], False), "it reaches what all do: names"
    (rule,) = guard["ingress"]
    assert rule["from"] == [
        {"podSelector": {}},
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}},
    ]
    assert rule["ports"] == [{"port": 5000, "protocol": "TCP"}]


def test_in_a_server_of_others_the_names_are_the_stack_s_own_and_go_with_it(project: Path) -> None:
    recorded = made(project, GIVEN)
    assert len(recorded.all("StatefulSet")) == 1, "the store's alone"
    at = mlflow(recorded)
    assert (at.url, at.secret, at.service) == ("https://mlflow.example/team", "mlflow", "")
    assert at.models.startswith(f"{NAMESPACE}-")
    assert at.models.endswith(".models")
    kept = recorded.one("Models", "models-models").inputs
    assert (kept["models"], kept["mlflow"], kept["namespace"]) == (at.models, at.to_dict(), NAMESPACE)
    assert mlflow(recorded, "others").models == f"{at.models.removesuffix('.models')}.others"


def test_who_uses_the_registry_may_know_what_its_server_asks_for(project: Path) -> None:
    def program() -> list[Any]:
        models = Registry("models", storage=Storage("lake"))
        again = Function("again", ek.FunctionSpec(source="function", on=[ek.On("ModelDecided")]), uses=[models])
        return [models, again]

    told = rules(run(program, project, GIVEN), "again-uses-models")
    assert told == [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": ["mlflow"]}]
    assert not run(program, project, {"ekiben:mlflowUri": "http://mlflow.example"}).all("Role")
    assert not run(program, project, IMAGE).all("Role")


@pytest.mark.parametrize(("config", "mirror"), [({}, "where-supported"), (IMAGE, "off"), (GIVEN, "off")])
def test_without_a_mirror_nothing_is_made_for_it(project: Path, config: dict[str, str], mirror: str) -> None:
    recorded = made(project, config, mirror)
    assert mlflow(recorded) == Mlflow()
    assert not [one for one in recorded.made if "mlflow" in one.name or one.type.endswith(":Models")]


def test_a_mirror_that_is_asked_for_and_has_no_server_fails_the_preview_with_what_to_set(project: Path) -> None:
    def program() -> list[Any]:
        components.export(Registry("models", ek.RegistrySpec(mirror="required"), storage=Storage("lake")))
        return []

    with pytest.raises(
        Unsupported, match=r"'models': mirror='required': .*ekiben:mlflowUri URL.*ekiben:mlflowImage IMAGE"
    ):
        run(program, project, preview=True)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"ekiben:mlflowUri": "mlflow:5000"}, "write http://HOST:PORT"),
        ({"ekiben:mlflowUri": "https://ann:hunter2@mlflow.example"}, "mlflowUri"),
        ({"ekiben:mlflowUri": "https://mlflow.example?token=hunter2"}, "mlflowUri"),
        ({"ekiben:mlflowSecret": "mlflow"}, "the server that ekiben:mlflowUri names"),
        ({**GIVEN, "ekiben:mlflowSecret": "No Secret"}, "the name of the Secret"),
        ({**GIVEN, **IMAGE}, "both ekiben:mlflowUri and ekiben:mlflowImage"),
    ],
)
def test_a_config_that_cannot_be_is_named_without_what_is_secret_in_it(
    project: Path, config: dict[str, str], why: str
) -> None:
    with pytest.raises(SpecError) as error:
        run(lambda: [Storage("lake")], project, config)
    assert why in str(error.value)
    assert "hunter2" not in json.dumps(str(error.value))
