"""A stack on a real cluster under the real engine: its store and its pods run, a second `up` changes nothing, and it goes, with all
that was made while it was up."""

from __future__ import annotations

import base64
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import ekiben as ek
from ekiben.emulators.kubernetes.chosen import Chosen
from ekiben.emulators.plugins.install import install
from ekiben.engine import pulumi_cli
from ekiben.kubernetes.client import Cluster
from ekiben.kubernetes.facts import COMPONENT, MANAGED_BY, PROJECT, STACK
from tests.crash.census import named
from tests.rigs.stack import STACK as RIG, Stack

PRIORITIES = "apis/scheduling.k8s.io/v1/priorityclasses"
pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.timeout(900)]

PROGRAM = """
import ekiben as ek

cloud = ek.provider()
lake = cloud.Storage("lake")
models = cloud.Registry("models", storage=lake)
tiny = cloud.Training(
    "tiny", ek.TrainingSpec(source="training_jobs/tiny", inputs={"points": "lake/points/"}, params={"scale": 1.0},
    resources=ek.Resources(vcpu=0.2, memory_mib=256), spot=True), storage=lake)
api = cloud.Endpoint("tiny-api", ek.EndpointSpec(model="tiny@champion", bento="bentos/tiny", min_instances=1,
    resources=ek.Resources(vcpu=0.2, memory_mib=256)), registry=models)
echo = cloud.Function("echo", ek.FunctionSpec(source="functions/echo", on=(ek.Http(), ek.Schedule("* * * * *")), memory_mib=128),
    uses=[lake, tiny])
ek.export(lake, models, tiny, api, echo)
"""


@pytest.fixture(scope="module")
def stack(emulated_kubernetes: Chosen) -> Iterator[Stack]:
    """A stack that is up, in a project of its own name."""
    project = f"life-{uuid.uuid4().hex[:6]}"
    config = {"ekiben:provider": "kubernetes", **emulated_kubernetes.config, "ekiben:knative": False}
    with pytest.MonkeyPatch.context() as env:
        env.setenv("KUBECONFIG", emulated_kubernetes.kubeconfig)
        made = Stack(config)
        (made.folder / "Pulumi.yaml").write_text(f"name: {project}\nruntime: python\nmain: infra/\n")
        (made.folder / "infra" / "__main__.py").write_text(PROGRAM)
        root = Path(__file__).parents[2]
        home = {"PULUMI_HOME": str(made.folder / ".ekiben" / ".pulumi")}
        install(pulumi_cli.ensure(root, print), {**os.environ, **home}, made.folder, "kubernetes")
        try:
            yield made
        finally:
            if state(made) != "destroyed":
                made.command("destroy", "--yes", check=False)
            shutil.rmtree(made.folder)


def state(stack: Stack) -> str:
    """What Pulumi's state says of it."""
    return str(json.loads(stack.command("inventory", "--json", check=False).stdout)[0]["state"])


def test_a_stack_is_up_with_its_store_its_pods_and_no_secret_in_its_state(stack: Stack) -> None:
    platform = stack.up()
    assert set(platform.parts) == {"lake", "models", "tiny", "tiny-api", "echo"}
    assert stack.again() == 0, "a second `up` changes nothing"
    namespace = platform.parts["lake"].facts["namespace"]
    told = Cluster(namespace).get("Secret", "ekiben-store", "look at the store's keys")["data"]
    secrets = [text for one in told.values() for text in (one, base64.b64decode(one).decode())]
    files = [path for path in (stack.folder / ".ekiben").rglob("*.json") if path.is_file()]
    assert files
    assert not [path for path in files for secret in secrets if secret in path.read_text("utf-8", "replace")]


def test_pods_are_gone_before_the_bucket_that_they_write_to(stack: Stack) -> None:
    (path,) = (stack.folder / ".ekiben" / ".pulumi" / "stacks").glob(f"*/{RIG}.json")
    resources = json.loads(path.read_text("utf-8"))["checkpoint"]["latest"]["resources"]
    (bucket,) = (one["urn"] for one in resources if one["type"] == "ekiben:kubernetes:Bucket")
    made = {one["urn"].rpartition("::")[2]: one["dependencies"] for one in resources if one["type"].endswith(":Made")}
    assert made.keys() == {"tiny-runs", "tiny-api-revisions"}
    assert all(bucket in first for first in made.values())


def test_another_checkout_of_the_same_name_is_refused_and_changes_nothing(stack: Stack) -> None:
    platform = ek.Platform.from_json((stack.state_dir / "platform.json").read_text("utf-8"))
    namespace = str(platform.parts["lake"].facts["namespace"])

    def held() -> set[str]:
        kinds = ("Namespace", "PersistentVolumeClaim", "Secret", "StatefulSet")
        return {one["metadata"]["uid"] for one in named(namespace) if one["kind"] in kinds}

    before, other = held(), Stack({})
    try:
        shutil.rmtree(other.folder)
        shutil.copytree(stack.folder, other.folder, ignore=shutil.ignore_patterns(".ekiben"))
        # It has the stand-in plugin, and a state of its own.
        plugins = Path(".ekiben", ".pulumi", "plugins")
        shutil.copytree(stack.folder / plugins, other.folder / plugins)
        refused = other.command("up", check=False)
        assert refused.returncode != 0
        assert f"cannot use the namespace '{namespace}': another stack of the same project and name" in refused.stderr
    finally:
        shutil.rmtree(other.folder)
    assert held() == before


def test_destroy_leaves_nothing_of_any_kind_nor_what_was_made_while_it_was_up(stack: Stack) -> None:
    platform = ek.Platform.from_json((stack.state_dir / "platform.json").read_text("utf-8"))
    runtime, namespace = ek.connect(platform), str(platform.parts["lake"].facts["namespace"])
    runtime.storage("lake").put("points/a.jsonl", b'{"x": 1, "y": 3}\n')
    run = runtime.training("tiny").submit(ek.Job(id="goes-on", params={"steps": 5000, "step_s": 0.05}))
    assert not run.ended
    there = Counter(one["kind"] for one in named(namespace))
    assert there.keys() >= {
        "Namespace",
        "PriorityClass",
        "PersistentVolume",
        "Job",
        "CronJob",
        "Secret",
        "NetworkPolicy",
    }
    stack.command("destroy", "--yes")
    assert [f"{one['kind']} {one['metadata']['name']}" for one in named(namespace)] == []
    stack.command("inventory")


def test_what_is_left_is_listed_wherever_it_is(stack: Stack, emulated_kubernetes: Chosen) -> None:
    project = str(yaml.safe_load((stack.folder / "Pulumi.yaml").read_text("utf-8"))["name"])
    labels = {MANAGED_BY: "ekiben", PROJECT: project, STACK: RIG, COMPONENT: "tiny"}
    elsewhere = Cluster(f"left-{uuid.uuid4().hex[:8]}")
    elsewhere._json("POST", "api/v1/namespaces", "set up", {"metadata": {"name": elsewhere.namespace}})
    try:
        # Nobody removes the finalizer of a controller that is gone.
        held = {"name": "held", "labels": labels, "finalizers": ["example.com/held"]}
        container = {"name": "job", "image": "none"}
        pod = {"restartPolicy": "Never", "containers": [container]}
        elsewhere.create("Job", {"metadata": held, "spec": {"suspend": True, "template": {"spec": pod}}}, "set up")
        elsewhere.delete("Job", "held", "set up")
        priority = {"metadata": {"name": elsewhere.namespace, "labels": labels}, "value": 1}
        elsewhere._json("POST", PRIORITIES, "set up", priority)
        said = stack.command("inventory", "--json", check=False)
        assert said.returncode == 7
        left = [one["where"] for one in json.loads(said.stdout)[0]["left"]]
        assert sorted(left) == [
            f"apis/batch/v1/Job/{elsewhere.namespace}/held",
            f"apis/scheduling.k8s.io/v1/PriorityClass/{elsewhere.namespace}",
        ]
    finally:
        elsewhere.patch("Job", "held", {"metadata": {"finalizers": None}}, "clean up")
        elsewhere.delete_at(f"{PRIORITIES}/{elsewhere.namespace}", "clean up")
        elsewhere.delete_at(f"api/v1/namespaces/{elsewhere.namespace}", "clean up")
    stack.command("inventory")
