"""A training whose runs are TrainJobs, on a real API server with the Trainer's own definitions. What its controllers do, the tests
do."""

from __future__ import annotations

import json
import urllib.error
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

import ekiben as ek
from ekiben import packing
from ekiben.emulators.kubernetes import binaries
from ekiben.errors import EkibenError
from ekiben.kubernetes import leftovers
from ekiben.kubernetes.client import Cluster
from ekiben.kubernetes.components import Function, Storage, Training as TrainingComponent
from ekiben.kubernetes.components.training import kind_of_run
from ekiben.kubernetes.facts import S3, TrainingFacts, facts_of, labels
from ekiben.kubernetes.training import Training
from tests.control_plane import ControlPlane
from tests.kubernetes import store
from tests.kubernetes.conftest import platform, training_part
from tests.kubernetes.program import Recorded, rules, run
from tests.kubernetes.test_roles import allowed, called
from tests.waiting import until

API = "apis/trainer.kubeflow.org/v1alpha1"
TRAINER, OLDEST, NEWEST = "github.com/kubeflow/trainer/v2", "v2.0.0", "v2.3.0"
# A field of a TrainJob's spec that the oldest lacks.
ONLY_NEWEST = "activeDeadlineSeconds"
DEFINITIONS = ("trainjobs", "trainingruntimes")
STRICT = "?fieldValidation=Strict&dryRun=All"
JOB = Path(__file__).parents[1] / "rigs" / "project" / "training_jobs" / "tiny"
KEYS = {"EKIBEN_S3_SECRET": "keys", "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}


def install(plane: ControlPlane, version: str) -> None:
    """The definitions of a version of the Trainer, as its module has them, in another's place; skips where there are none."""
    trainer = binaries.Module(path=TRAINER, version=version, packages={})
    try:
        folder = binaries.sources(trainer, TRAINER)[TRAINER] / "manifests" / "base" / "crds"
    except EkibenError as error:
        pytest.skip(f"the Trainer's definitions are not to be had here: {error}")
    for name in DEFINITIONS:
        path = folder / f"trainer.kubeflow.org_{name}.yaml"
        definition = yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
        at = f"apis/apiextensions.k8s.io/v1/customresourcedefinitions/{definition['metadata']['name']}"
        plane.call("PATCH", f"{at}?fieldManager=tests&force=true", definition, content="application/apply-patch+yaml")
    for name in DEFINITIONS:
        plane.wait(f"{API}/{name}")


def taken(plane: ControlPlane, namespace: str, thing: dict[str, Any]) -> str:
    """What the server says against an object, each of whose fields its definition has to have; empty where it would make it."""
    again = {key: thing[key] for key in ("apiVersion", "kind", "spec")}
    again["metadata"] = {"name": f"{thing['metadata']['name']}-b", "labels": thing["metadata"]["labels"]}
    try:
        plane.call("POST", f"{API}/namespaces/{namespace}/{thing['kind'].lower()}s{STRICT}", again)
    except urllib.error.HTTPError as error:
        return str(json.loads(error.read())["message"])
    return ""


@pytest.fixture(scope="module")
def plane(api_server: ControlPlane) -> ControlPlane:
    install(api_server, OLDEST)
    return api_server


@pytest.fixture
def training(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> Iterator[Training]:
    """On two nodes, in a namespace of its own."""
    namespace = f"train-{uuid.uuid4().hex[:8]}"
    plane.call("POST", "api/v1/namespaces", {"metadata": {"name": namespace}})
    plane.wait(f"api/v1/namespaces/{namespace}/serviceaccounts/default")
    for name, value in {"KUBECONFIG": str(plane.kubeconfig), **KEYS}.items():
        monkeypatch.setenv(name, value)
    code, library = packing.bundle(JOB), packing.job_library("kubernetes/container.py")
    with store.serving() as url:
        part = training_part(
            store.bucket(url), S3(url=url, secret="keys"), library, code, namespace=namespace, nodes=2, spot=True
        )
        part.facts.update({"kind": "TrainJob", "elastic": True})
        yield Training(part, platform(part))
    plane.call("DELETE", f"api/v1/namespaces/{namespace}")


class Made:
    """What a run has made: the objects, and what the Trainer and its controllers would write of them."""

    def __init__(self, plane: ControlPlane, training: Training, run: str) -> None:
        self.plane, self.namespace, self.name = plane, training._cluster.namespace, training._name(run)
        self.path = f"{API}/namespaces/{self.namespace}/trainjobs/{self.name}"

    @property
    def trainjob(self) -> dict[str, Any]:
        return dict(self.plane.call("GET", self.path))

    @property
    def runtime(self) -> dict[str, Any]:
        return dict(self.plane.call("GET", self.path.replace("/trainjobs/", "/trainingruntimes/")))

    def condition(self, type: str, reason: str, message: str = "") -> None:
        at = "2026-11-22T10:00:00Z"
        said = {"type": type, "status": "True", "reason": reason, "message": message, "lastTransitionTime": at}
        self.plane.status(self.path, conditions=[said])

    def pod(self, rank: int, phase: str) -> None:
        """One of the Job that the JobSet makes, as the runtime says it. It goes with the TrainJob."""
        template = self.runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
        job = {
            "batch.kubernetes.io/job-name": f"{self.name}-node-0",
            "batch.kubernetes.io/job-completion-index": str(rank),
        }
        owner = {"apiVersion": API.removeprefix("apis/"), "kind": "TrainJob", "name": self.name}
        meta: dict[str, Any] = {
            "name": f"{self.name}-node-0-{rank}-abcde",
            "labels": {**template["metadata"]["labels"], **job},
        }
        meta["ownerReferences"] = [{**owner, "uid": self.trainjob["metadata"]["uid"]}]
        spec = {**template["spec"], "serviceAccountName": "default"}
        pods = f"api/v1/namespaces/{self.namespace}/pods"
        self.plane.call("POST", pods, {"metadata": meta, "spec": spec})
        self.plane.status(f"{pods}/{meta['name']}", phase=phase)


@pytest.mark.timeout(300)
def test_what_is_submitted_is_what_the_trainer_takes_and_comes_to_the_same_job(
    plane: ControlPlane, training: Training
) -> None:
    run = training.submit(ek.Job(id="Monday-1", params={"scale": 2.0}))
    assert (run.state, run.nodes) == ("pending", 2)
    assert training.submit(ek.Job(id="Monday-1", params={"scale": 2.0})).submitted_at == run.submitted_at
    with pytest.raises(ek.AlreadyExists, match="other inputs or parameters"):
        training.submit(ek.Job(id="Monday-1", params={"scale": 3.0}))
    made = Made(plane, training, "Monday-1")
    things = (made.runtime, made.trainjob)
    assert [taken(plane, made.namespace, thing) for thing in things] == ["", ""]
    install(plane, NEWEST)
    later = {**made.trainjob, "spec": {**made.trainjob["spec"], ONLY_NEWEST: 60}}
    until(lambda: not taken(plane, made.namespace, later), "the server has read the definitions")
    assert [taken(plane, made.namespace, thing) for thing in things] == ["", ""]
    for thing in things:
        assert thing["metadata"]["labels"] == labels(training.platform, training.part, run="Monday-1")
    (nodes,) = made.runtime["spec"]["template"]["spec"]["replicatedJobs"]
    pod = nodes["template"]["spec"]["template"]["spec"]
    variables = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
    assert variables["EKIBEN_MASTER_NAME"] == f"{made.name}-node-0-0.{made.name}"
    assert (nodes["name"], nodes["replicas"], pod["containers"][0]["name"]) == ("node", 1, "node")
    assert nodes["template"]["metadata"]["labels"]["trainer.kubeflow.org/trainjob-ancestor-step"] == "trainer"
    # The Job that comes of it is one that the server takes.
    job = {"metadata": {"name": f"{made.name}-node-0"}, "spec": nodes["template"]["spec"]}
    accepted = plane.call("POST", f"apis/batch/v1/namespaces/{made.namespace}/jobs{STRICT}", job)
    assert (accepted["spec"]["completions"], accepted["spec"]["completionMode"]) == (2, "Indexed")
    (ask,) = made.trainjob["spec"]["trainer"]["env"]
    assert json.loads(training._storage.get(training._storage.key(ask["value"])))["params"]["scale"] == 2.0
    # The longest name that a pod comes to.
    assert len(f"{training._name('r' * 63)}-node-0-999-abcde") <= 63


@pytest.mark.timeout(300)
def test_a_trainer_that_has_not_seen_a_run_s_runtime_yet_is_asked_again(
    plane: ControlPlane, training: Training
) -> None:
    """Its webhook looks into a cache, which what was made a moment ago has not reached. A policy says here what that says."""
    namespace = training._cluster.namespace
    at, rules = "apis/admissionregistration.k8s.io/v1", {"apiGroups": ["trainer.kubeflow.org"], "apiVersions": ["*"]}
    message = 'TrainingRuntime "x" not found: specified trainingRuntime must be created before the TrainJob is created'
    policy = {
        "matchConstraints": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "resourceRules": [{**rules, "operations": ["CREATE"], "resources": ["trainjobs"]}],
        },
        "validations": [{"expression": "false", "message": message, "reason": "Forbidden"}],
    }
    binding = {"policyName": namespace, "validationActions": ["Deny"]}
    kinds = {"validatingadmissionpolicies": policy, "validatingadmissionpolicybindings": binding}
    for kind, spec in kinds.items():
        plane.call("POST", f"{at}/{kind}", {"metadata": {"name": namespace}, "spec": spec})
    trainjob = {"apiVersion": API.removeprefix("apis/"), "kind": "TrainJob", "spec": {"runtimeRef": {"name": "x"}}}
    trainjob["metadata"] = {"name": "x", "labels": {}}
    until(lambda: message in taken(plane, namespace, trainjob), "the policy holds")
    with ThreadPoolExecutor(1) as pool:
        submitted = pool.submit(training.submit, ek.Job(id="soon"))
        made = Made(plane, training, "soon")
        plane.wait(made.path.replace("/trainjobs/", "/trainingruntimes/"))
        for kind in kinds:
            plane.call("DELETE", f"{at}/{kind}/{namespace}")
        assert submitted.result().state == "pending"
    assert made.trainjob["spec"]["runtimeRef"]["name"] == made.name


@pytest.mark.timeout(300)
def test_what_its_controllers_write_is_the_run_s_state(plane: ControlPlane, training: Training) -> None:
    for id in ("done", "lost", "waits"):
        training.submit(ek.Job(id=id))
    done, lost = (Made(plane, training, id) for id in ("done", "lost"))
    for rank in (0, 1):
        done.pod(rank, "Running")
    assert training.run("done").state == "running"
    done.condition("Complete", "AllJobsCompleted")
    lost.condition("Failed", "FailedJobs", "jobset failed due to one or more job failures")
    found = {run.id: run for run in training.runs()}
    assert {id: run.state for id, run in found.items()} == {"done": "succeeded", "lost": "failed", "waits": "pending"}
    assert "one or more job failures" in found["lost"].reason
    # Those of the pods that the Trainer makes go with the training, too.
    leftovers.deleted(Cluster(done.namespace), labels(training.platform, training.part))
    for path in (done.path, done.path.replace("/trainjobs/", "/trainingruntimes/"), lost.path):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            plane.call("GET", path)


@pytest.mark.timeout(300)
def test_a_run_that_is_cancelled_is_suspended_and_over_when_its_pods_are(
    plane: ControlPlane, training: Training
) -> None:
    training.submit(ek.Job(id="long"))
    made = Made(plane, training, "long")
    made.pod(0, "Running")
    pod = f"api/v1/namespaces/{made.namespace}/pods/{made.name}-node-0-0-abcde"
    with ThreadPoolExecutor(1) as pool:
        cancelled = pool.submit(training.cancel, "long")
        until(lambda: made.trainjob["spec"]["suspend"], "it is suspended")
        made.condition("Suspended", "Suspended")
        assert training.run("long").state == "running", "its pod still runs"
        plane.call("DELETE", pod, {"gracePeriodSeconds": 0})
        assert cancelled.result().state == "cancelled"
    told = [json.loads(training._storage.get(one.key)) for one in training._storage.list("deliveries/_events/")]
    assert [(one["subject"], one["data"]["state"]) for one in told] == [("long", "cancelled")]


def test_a_training_is_on_trainjobs_where_the_stack_says_so_and_the_cluster_has_them(
    plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(plane.kubeconfig))
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "train.py").write_text("")
    (tmp_path / "function").mkdir()
    (tmp_path / "function" / "main.py").write_text("def handler(event, runtime): ...\n")

    def program() -> list[Any]:
        lake = Storage("lake")
        income = TrainingComponent("income", ek.TrainingSpec(source="job", spot=True), storage=lake)
        plain = TrainingComponent("plain", ek.TrainingSpec(source="job", spot=True), storage=lake)
        return [income, plain, Function("again", ek.FunctionSpec(source="function"), uses=[income, plain])]

    def on(service: str) -> Recorded:
        return run(program, tmp_path, {"ekiben:services": json.dumps({"income": service})})

    recorded = on("trainjobs")
    facts = {name: facts_of(recorded.parts[name], TrainingFacts) for name in ("income", "plain")}
    assert {name: one.kind for name, one in facts.items()} == {"income": "TrainJob", "plain": "Job"}
    # A priority below that of others is nothing that a JobSet's pods can have: it becomes a label of theirs.
    assert ["priorityClassName" in facts[name].pod for name in ("income", "plain")] == [False, True]
    asked = allowed(rules(recorded, "again-uses-income"))
    assert set(asked) == called("training.py", "runlogs.py", run="TrainJob")
    with pytest.raises(ek.SpecError, match="there is no service 'rayjobs' on kubernetes; there are: jobs, trainjobs"):
        on("rayjobs")
    with pytest.raises(ek.Unsupported, match="Install Kubeflow's Trainer 2, or name jobs"):
        kind_of_run("income", "trainjobs", lambda: False)
