"""XGBoost over two nodes on one machine, by the same rank discovery that the clouds use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.station.stage import Stage, started

pytest.importorskip("xgboost")

JOB = """
    import hashlib, json
    import numpy as np, xgboost as xgb
    from ekiben import job

    rng = np.random.default_rng(7)
    x = rng.normal(size=(2000, 5))
    y = (x @ np.array([1.0, -2.0, 0.5, 0.0, 3.0]) + rng.normal(scale=0.3, size=2000) > 0).astype(int)
    train, test = slice(0, 1500), slice(1500, 2000)
    with job.xgboost_collective() as me:
        mine = np.arange(1500)[me.rank :: me.count]
        assert xgb.collective.get_world_size() == me.count
        assert xgb.collective.get_rank() == me.rank
        settings = {"objective": "binary:logistic", "max_depth": 3, "eta": 0.3, "nthread": 1, "seed": 1}
        model = xgb.train(settings, xgb.DMatrix(x[mine], y[mine]), num_boost_round=20)
    raw = model.save_raw("json")
    said = model.predict(xgb.DMatrix(x[test]))
    print("model", hashlib.sha256(raw).hexdigest(), flush=True)
    (job.model_dir() / "model.json").write_bytes(raw)
    accuracy = float(((said > 0.5) == y[test]).mean())
    (job.output_dir() / "metrics.json").write_text(json.dumps({"metrics": {"accuracy": accuracy, "mean": float(said.mean())}}))
"""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with started(tmp_path_factory.mktemp("xgboost")) as stage:
        yield stage


def test_two_nodes_make_one_model_that_is_close_to_one_nodes(stage: Stage) -> None:
    half = {"vcpu": 0.5, "memory_mib": 1024}
    stage.training("alone", JOB, resources=half)
    stage.training("pair", JOB, nodes=2, resources=half)
    stage.submit("alone", "alone-1")
    stage.submit("pair", "pair-1")
    alone, pair = stage.ended("alone", "alone-1"), stage.ended("pair", "pair-1")
    assert (alone.state, pair.state) == ("succeeded", "succeeded"), alone.reason + pair.reason
    models = {line.split()[2] for line in stage.log("pair", "pair-1").splitlines() if " model " in line}
    ranks = {line.split()[0] for line in stage.log("pair", "pair-1").splitlines() if " model " in line}
    assert (len(models), ranks) == (1, {"[0]", "[1]"})
    assert pair.metrics["accuracy"] > 0.9
    assert pair.metrics["accuracy"] == pytest.approx(alone.metrics["accuracy"], abs=0.03)
    assert pair.metrics["mean"] == pytest.approx(alone.metrics["mean"], abs=0.03)


def test_a_node_that_dies_in_the_middle_of_the_collective_ends_the_other(stage: Stage) -> None:
    dies = JOB.replace("model = xgb.train(", "assert me.rank == 0, 'this one dies'\n        model = xgb.train(")
    stage.training("widow", dies, nodes=2, resources={"vcpu": 0.5, "memory_mib": 1024}, grace_s=1)
    stage.submit("widow", "widow-1")
    run = stage.ended("widow", "widow-1")
    assert run.state == "failed"
    assert "this one dies" in run.reason
    assert stage.events("TrainingEnded")[0]["data"]["state"] == "failed"
