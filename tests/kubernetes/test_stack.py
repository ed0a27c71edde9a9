"""A stack on a real cluster under the real engine: its store and its pods run, a second `up` changes nothing, and it goes."""

from __future__ import annotations

import base64
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ekiben.emulators.kubernetes.chosen import Chosen
from ekiben.emulators.plugins.install import install
from ekiben.engine import pulumi_cli
from ekiben.kubernetes.client import Cluster
from tests.rigs.stack import Stack

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
            made.command("destroy", "--yes", check=False)
            shutil.rmtree(made.folder)


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
