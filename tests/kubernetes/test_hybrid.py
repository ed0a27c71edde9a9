"""One program: trained in a cluster, copied to this machine and to AWS, and the same predictions bit for bit on both."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from ekiben.emulators import aws, stacks
from ekiben.emulators.kubernetes.chosen import Chosen
from tests.cli.test_hybrid import COLUMNS, ROWS, SERVICE, bits
from tests.rigs.stack import STACK, THEIRS, Stack, environment

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.timeout(900)]

np = pytest.importorskip("numpy")
xgboost = pytest.importorskip("xgboost")

PROGRAM = """
import ekiben as ek

site, here, cloud = ek.provider("kubernetes"), ek.provider("local"), ek.provider("aws")
lake = site.Storage("lake")
models = site.Registry("models", storage=lake)
income = site.Training("income", ek.TrainingSpec(source="training_jobs/income", inputs={"rows": "lake/rows/"},
    resources=ek.Resources(vcpu=0.5, memory_mib=768)), storage=lake)
made = [lake, models, income]
for one, name in ((here, "here"), (cloud, "cloud")):
    shelf = one.Storage(f"{name}-lake")
    registry = one.Registry(f"{name}-models", storage=shelf)
    made += [shelf, registry, one.Endpoint(
        f"{name}-api", ek.EndpointSpec(model="income@champion", bento="bentos/income"), registry=registry)]
ek.export(*made)
"""
JOB = """
import json
import numpy as np, xgboost
from ekiben import job

rows = np.loadtxt(job.inputs()["rows"] / "rows.csv", delimiter=",", dtype=np.float32)
x, y = rows[:, :-1], rows[:, -1]
booster = xgboost.train({"objective": "binary:logistic", "nthread": 1, "seed": 1}, xgboost.DMatrix(x, y), num_boost_round=50)
booster.save_model(job.model_dir() / "model.ubj")
sample = {"route": "predict", "request": {"rows": x[:2].tolist()}, "response": booster.inplace_predict(x[:2]).tolist()}
(job.output_dir() / "signature.json").write_text(json.dumps({"columns": list("abcde"), "sample": sample}))
"""
REGISTER = """
from pathlib import Path
from ekiben import release
from ekiben.cli.platform import runtime
used = runtime("")
(run,) = used.training("income").runs()
lake = used.storage("lake")
lake.download(lake.key(run.model_uri).rstrip("/") + "/model.ubj", Path("model.ubj"))
print(release.register(used, run, endpoint="here-api", registry="models").digest)
"""


@pytest.fixture(scope="module")
def stack(emulated_kubernetes: Chosen) -> Iterator[Stack]:
    """The program, up on all three."""
    if emulated_kubernetes.origin != "own":
        pytest.skip("an emulated stack runs on Ekiben's own cluster")
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the pods have Python 3.11, and the versions that are installed here may be for others")
    config = {
        "ekiben:provider": "kubernetes", "ekiben:emulate": ["aws", "kubernetes"], "ekiben:knative": False,
        "aws:region": "us-east-1",
    }  # fmt: skip
    made = Stack(config, theirs=(*THEIRS, "AWS_", "KUBECONFIG"))
    for name in ("training_jobs", "bentos", "functions"):
        shutil.rmtree(made.folder / name)
    # A namespace of its own for each try.
    (made.folder / "Pulumi.yaml").write_text(f"name: hybrid-{uuid.uuid4().hex[:6]}\nruntime: python\nmain: infra/\n")
    job, bento = made.folder / "training_jobs" / "income", made.folder / "bentos" / "income"
    trained, served = (pinned("numpy", "scipy", "xgboost-cpu"), pinned("bentoml", "numpy", "xgboost-cpu"))
    for path, text in {
        made.folder / "infra" / "__main__.py": PROGRAM, job / "train.py": JOB, job / "requirements.txt": trained,
        bento / "service.py": SERVICE, bento / "requirements.txt": served,
    }.items():  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    try:
        made.up()
        yield made
    finally:
        try:
            made.down()
        finally:
            aws.stop(stacks.state_dir(made.folder))
            shutil.rmtree(made.folder)


def test_what_a_cluster_has_trained_answers_the_same_wherever_it_was_copied_to(stack: Stack) -> None:
    folder, random = stack.folder, np.random.default_rng(7)
    x = random.normal(size=(2000, COLUMNS)).astype(np.float32)
    y = x @ np.array([1.0, -2.0, 0.5, 0.0, 3.0]) + random.normal(scale=0.3, size=2000) > 0
    np.savetxt(folder / "rows.csv", np.column_stack([x, y]), delimiter=",")
    rows = random.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    (folder / "request.json").write_text(json.dumps({"rows": rows.tolist()}))
    stack.command("put", "rows.csv", "lake/rows/")
    stack.command("train", "income", "--id", "first", "--follow")
    digest = here(stack, REGISTER).strip()
    stack.command("approve", "income:1", "--registry", "models", "--why", "the best")
    model = xgboost.Booster({"nthread": 1}, model_file=folder / "model.ubj")
    expected = bits(model.inplace_predict(rows))
    for provider, name in (("local", "here"), ("aws", "cloud")):
        copied = said(stack, "copy", "income", "--to", provider, "--registry", "models")
        assert (copied["digest"], copied["state"], copied["provider"]) == (digest, "approved", provider)
        assert [one["provider"] for one in copied["lineage"]["copied"]] == ["kubernetes"]
        stack.command("release", "income:1", "--registry", f"{name}-models", "--endpoint", f"{name}-api")
        answer = json.loads(stack.command("invoke", f"{name}-api", "--data", "@request.json").stdout)
        assert bits(answer) == expected, provider


def pinned(*names: str) -> str:
    """A lock of these as they are installed here."""
    return "".join(f"{name}=={importlib.metadata.version(name)}\n" for name in names)


def here(stack: Stack, program: str) -> str:
    """What a program says that uses the run face in the project."""
    env = environment((*THEIRS, "AWS_", "KUBECONFIG"))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=stack.folder, env={**env, "EKIBEN_STACK": STACK}, text=True,
        capture_output=True, stdin=subprocess.DEVNULL, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def said(stack: Stack, *words: str) -> Any:
    return json.loads(stack.command(*words, "--json").stdout)
