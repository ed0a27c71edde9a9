"""What a role allows is what the run face calls, read from its source: nothing that is missing, and nothing over."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import ekiben as ek
from ekiben.kubernetes.client import KINDS
from ekiben.kubernetes.components import Endpoint, Function, Registry, Storage, Training

from .program import Recorded, rules, run

FOLDER = Path(ek.__file__).parent / "kubernetes"
# What everybody may, what only a person's credentials do, and what a pod has in its environment instead.
OTHERWISE = {("authentication.k8s.io", "selfsubjectreviews", "create"), ("", "nodes", "list")}
# A JobSet makes the Service by which the nodes of a TrainJob find each other.
NOT_OF_TRAINJOBS = {("", "services", "create")}
OF_TRAINJOBS = {("trainer.kubeflow.org", "trainingruntimes", "create")}
ROOTS = {"api/v1": ""}


def called(*names: str, run: str = "Job") -> set[tuple[str, str, str]]:
    """(group, resource, verb) of each call of the API in these modules; run: what a run is."""
    found = set()
    for name in names:
        text = (FOLDER / name).read_text("utf-8")
        for verb, kind in re.findall(r'cluster\.(get|list|create|patch|delete)\(\s*"?(self\._kind|\w+(?="))', text):
            root, plural = KINDS[run if kind == "self._kind" else kind]
            found.add((ROOTS.get(root, root.removeprefix("apis/").rpartition("/")[0]), plural, verb))
        found |= {
            ("", f"pods/{what}", "get")
            for word, what in (("log", "log"), ("proxied_pod", "proxy"))
            if f"cluster.{word}(" in text
        }
    return found - OTHERWISE - (NOT_OF_TRAINJOBS if run == "TrainJob" else OF_TRAINJOBS)


def allowed(told: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    for one in told:
        for resource in one["resources"]:
            yield from ((one["apiGroups"][0], resource, verb) for verb in one["verbs"])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(Path(__file__).parents[1] / "rigs" / "project" / "bentos" / "tiny", root / "tiny")
    for folder, name in (("job", "train.py"), ("function", "main.py")):
        (root / folder).mkdir()
        (root / folder / name).write_text("def handler(event, runtime): ...\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as env:
        env.setenv("XDG_CACHE_HOME", str(root / "cache"))
        yield root


def made(project: Path, knative: str) -> Recorded:
    def program() -> list[Any]:
        lake = Storage("lake")
        models = Registry("models", storage=lake)
        spec = ek.EndpointSpec(model="tiny@champion", bento="tiny", min_instances=1)
        used = [
            lake, models, Training("income", ek.TrainingSpec(source="job"), storage=lake), Endpoint("api", spec, registry=models),
            Function("other", ek.FunctionSpec(source="function"), uses=[lake]),
        ]  # fmt: skip
        return [Function("again", ek.FunctionSpec(source="function"), uses=used)]

    return run(program, project, {"ekiben:knative": knative, "ekiben:gateway": "infra/public"})


# Beside the modules of its backend.
ENDPOINT = ("endpoint.py", "measures.py")
TOKEN = {("", "secrets", "get")}


def test_who_uses_an_endpoint_on_knative_may_do_what_that_calls(project: Path) -> None:
    recorded = made(project, "true")
    assert set(allowed(rules(recorded, "again-uses-api"))) == called("knative.py", *ENDPOINT) | TOKEN
    assert set(allowed(rules(recorded, "again-uses-income"))) == called("training.py", "runlogs.py")
    assert set(allowed(rules(recorded, "again-uses-other"))) == TOKEN


def test_who_uses_an_endpoint_on_deployments_may_do_what_that_calls(project: Path) -> None:
    recorded = made(project, "false")
    assert set(allowed(rules(recorded, "again-uses-api"))) == called("deployments.py", *ENDPOINT) | TOKEN


def test_a_call_without_a_rule_would_be_found() -> None:
    """The check itself: it reads what there is."""
    assert ("trainer.kubeflow.org", "trainjobs", "patch") in called("training.py", run="TrainJob")
    assert ("batch", "jobs", "create") in called("training.py")
    assert ("apps", "deployments", "delete") in called("deployments.py")
    assert ("", "pods/proxy", "get") in called("measures.py")
