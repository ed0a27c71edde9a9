"""XGBoost in pods: two nodes make the model that one makes, within a bound, also where a pod is killed in the middle of it."""

from __future__ import annotations

import csv
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ekiben as ek
from ekiben import packing
from ekiben.emulators.kubernetes import chosen
from ekiben.emulators.kubernetes.chosen import Chosen
from ekiben.kubernetes.training import Training
from tests.waiting import until

from .conftest import platform, training_part
from .stack import Stack
from .wheels import packed

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

numpy = pytest.importorskip("numpy")
xgboost = pytest.importorskip("xgboost")

# What docs/kubernetes.md says: of a probability, where no column has more values than XGBoost has bins (256).
BOUND = 1e-5
ROUNDS, KEPT_AT = 20, 10
JOB = f"""
import hashlib, time
import numpy, xgboost
from ekiben import job

rows = numpy.loadtxt(job.inputs()["rows"] / "rows.csv", delimiter=",")
found = job.latest_checkpoint()
start = xgboost.Booster(model_file=found.folder / "model.ubj") if found else None
done = start.num_boosted_rounds() if start else 0

class Keep(xgboost.callback.TrainingCallback):
    def after_iteration(self, model, epoch, evals_log):
        trees = model.num_boosted_rounds()
        if trees == {KEPT_AT} and me.rank == 0:
            job.save_checkpoint(trees, lambda folder: model.save_model(folder / "model.ubj"))
        while job.params().get("hold") and found is None and trees == {KEPT_AT}:
            time.sleep(0.1)

with job.xgboost_collective() as me:
    print("node", me.rank, "goes on after", done, "trees", flush=True)
    mine = rows[me.rank :: me.count]
    settings = {{"objective": "binary:logistic", "max_depth": 4, "eta": 0.3, "nthread": 1, "seed": 7}}
    model = xgboost.train(
        settings, xgboost.QuantileDMatrix(mine[:, :-1], mine[:, -1]), {ROUNDS} - done, xgb_model=start, callbacks=[Keep()]
    )
raw = model.save_raw("json")
print("model", hashlib.sha256(raw).hexdigest(), flush=True)
if me.rank == 0:
    (job.model_dir() / "model.json").write_bytes(raw)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The job's source, and below `rows` whole numbers with a rule in them, and some noise."""
    folder = tmp_path_factory.mktemp("job")
    for part in ("source", "rows"):
        (folder / part).mkdir()
    (folder / "source" / "train.py").write_text(JOB, encoding="utf-8")
    rng = random.Random(7)
    with (folder / "rows" / "rows.csv").open("w", newline="", encoding="ascii") as file:
        for _ in range(4000):
            row = [rng.randrange(90), rng.randrange(24), rng.randrange(5), rng.randrange(2)]
            chance = 0.9 if (row[0] > 25 and row[1] > 8) or row[2] == 3 else 0.15
            csv.writer(file).writerow([*row, int(rng.random() < chance)])
    return folder


@pytest.fixture(scope="module", params=["Job", "TrainJob"])
def training(request: pytest.FixtureRequest, emulated_kubernetes: Chosen, stack: Stack, folder: Path) -> Training:
    """One whose requirements are wheels in the bucket, since no pod reaches an index."""
    if request.param == "TrainJob":
        if "kubernetes" not in os.environ.get("EKIBEN_RIGS", ""):
            pytest.skip("with the rig `kubernetes` alone: make conformance PROVIDER=kubernetes")
        if emulated_kubernetes.origin != "own":
            pytest.skip("no Trainer that is known: the cluster is not Ekiben's own")
        chosen.with_trainer(emulated_kubernetes)
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the pods have Python 3.11, and the packages that are installed here are for another one")
    lock = []
    for requirement, wheel in packed(("numpy", "scipy", "xgboost-cpu"), folder / "wheels"):
        stack.store.upload(f"{stack.bucket}/wheels/{wheel.name}", wheel)
        lock.append(requirement)
    (folder / "source" / "requirements.txt").write_text("\n".join(lock) + "\n", encoding="utf-8")
    stack.store.upload(f"{stack.bucket}/rows/rows.csv", folder / "rows" / "rows.csv")
    code = packing.bundle(folder / "source")
    stack.store.upload(f"{stack.bucket}/code/{code.sha256}.tar", code.path)
    part = training_part(
        stack.bucket, stack.s3, stack.library, code, stack.image, stack.namespace, inputs={"rows": "lake/rows/"}, params={},
        nodes=2, retries=1, timeout_s=600, resources={"vcpu": 0.5, "memory_mib": 768, "gpus": 0, "gpu": ""},
    )  # fmt: skip
    rows, wheels = ({name: f"{stack.bucket}/{name}/"} for name in ("rows", "wheels"))
    more = {"input_uris": rows, "wheels_uri": wheels["wheels"], "kind": request.param}
    part = replace(part, facts={**part.facts, **more})
    return Training(part, platform(part))


def by_hand(folder: Path, into: Path, nodes: int) -> bytes:
    """The model that processes of this machine make of the same source, without a cluster."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in range(nodes):
        told: Mapping[str, str] = {
            "EKIBEN_INPUT_ROWS": str(folder / "rows"), "EKIBEN_NODE_RANK": str(rank), "EKIBEN_NODE_COUNT": str(nodes),
            "EKIBEN_MASTER_ADDR": "127.0.0.1", "EKIBEN_MASTER_PORT": port,
            **{f"EKIBEN_{part.upper()}_DIR": str(into / part / str(rank)) for part in ("model", "output", "checkpoint")},
        }  # fmt: skip
        started.append(subprocess.Popen([sys.executable, "train.py"], cwd=folder / "source", env=os.environ | told))
    assert [one.wait(timeout=300) for one in started] == [0] * nodes
    return (into / "model" / "0" / "model.json").read_bytes()


def answers(model: bytes, folder: Path) -> Any:
    rows = numpy.loadtxt(folder / "rows" / "rows.csv", delimiter=",")[:, :-1]
    return xgboost.Booster(model_file=bytearray(model)).predict(xgboost.DMatrix(rows))


def test_two_nodes_of_which_one_is_killed_make_the_model_that_one_makes(
    stack: Stack, training: Training, folder: Path, tmp_path: Path
) -> None:
    pool = ThreadPoolExecutor(2)
    two, one = (pool.submit(by_hand, folder, tmp_path / str(nodes), nodes) for nodes in (2, 1))
    id = f"pair-{os.urandom(3).hex()}"
    at = f"{stack.bucket}/runs/tiny/{id}"
    training.submit(ek.Job(id=id, params={"hold": True}))
    # Both wait behind a checkpoint, in the middle: the node that has it goes, with the collective's tracker.
    until(lambda: list(stack.store.list(f"{at}/checkpoints/step-")), "a checkpoint is stored")
    until(lambda: list(stack.store.list(f"{at}/checkpoints.json")), "it is known to be whole")
    (first,) = [
        one for one in stack.pods(id) if one["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] == "0"
    ]
    path = stack.api.path("Pod", first["metadata"]["name"])
    stack.api._json("DELETE", path, "kill a pod", {"gracePeriodSeconds": 0, "propagationPolicy": "Background"})
    until(lambda: training.run(id).attempts == 2, "both begin again")
    run = until(lambda: run if (run := training.run(id)).ended else None, f"the run {id} ends")
    assert (run.state, run.nodes, run.attempts) == ("succeeded", 2, 2), (run.reason, list(training.logs(id)))
    wanted = [f"[{rank}] node {rank} goes on after {KEPT_AT} trees" for rank in (0, 1)]
    wanted += ["[0] model ", "[1] model "]

    def whole() -> list[str] | None:
        """The log, once the second node has stored its own, too: the run has ended with the first."""
        log = list(training.logs(id))
        return log if all(any(line.startswith(each) for line in log) for each in wanted) else None

    log = until(whole, "both logs are stored")
    assert len({line.rpartition(" ")[2] for line in log if "] model " in line}) == 1, "the nodes have one model"
    model = stack.store.get(f"{run.model_uri}model.json")
    assert model == two.result(), "the same bytes as without the kill"
    assert numpy.abs(answers(model, folder) - answers(one.result(), folder)).max() <= BOUND
    environment = run.lineage["environment"]
    assert "xgboost" in json.dumps(environment), environment
