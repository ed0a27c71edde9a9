"""Training runs that share a machine: several nodes, GPUs that are not there, a queue in order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ekiben.errors import NoCapacity
from ekiben.station import machine
from tests.station.stage import Stage, with_points


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with with_points(tmp_path_factory.mktemp("training")) as stage:
        yield stage


NODES = """
    import os, sys, time
    from ekiben import job
    me = job.node()
    print("rank", me.rank, "of", me.count, "at", me.master_addr, me.master_port > 0, flush=True)
    if {fails} == me.rank:
        time.sleep(0.2)
        job.fail(f"node {{me.rank}} gives up")
    (job.model_dir() / f"m-{{me.rank}}").touch()
    if {fails} >= 0:
        time.sleep(300)
"""


def test_several_nodes_and_the_logs_of_all(stage: Stage) -> None:
    stage.training("nodes", NODES.format(fails=-1), nodes=2, resources={"vcpu": 0.5, "memory_mib": 256})
    stage.submit("nodes", "nodes-1")
    run = stage.ended("nodes", "nodes-1")
    assert (run.state, run.nodes) == ("succeeded", 2)
    assert sorted(stage.log("nodes", "nodes-1").splitlines()) == [
        "[0] rank 0 of 2 at 127.0.0.1 True", "[1] rank 1 of 2 at 127.0.0.1 True",
    ]  # fmt: skip
    assert [path.name for path in (stage.lake / "runs/nodes/nodes-1/model").iterdir()] == ["m-0"]


def test_one_node_that_fails_stops_the_others(stage: Stage) -> None:
    stage.training("torn", NODES.format(fails=1), nodes=2, resources={"vcpu": 0.5, "memory_mib": 256}, grace_s=0)
    stage.submit("torn", "torn-1")
    run = stage.ended("torn", "torn-1")
    assert (run.state, run.reason) == ("failed", "node 1 gives up")


def test_t16_gpus_that_are_not_there_are_refused_with_how_many_there_are(stage: Stage) -> None:
    if machine.gpus():
        pytest.skip("this machine has GPUs")
    stage.training("gpu", "pass", resources={"gpus": 1})
    with pytest.raises(NoCapacity, match="asks for 1 GPUs and this machine has 0: none"):
        stage.submit("gpu", "gpu-1")
    stage.training("wide", "pass", resources={"vcpu": 192})
    with pytest.raises(NoCapacity, match=f"192 CPUs and this machine has {len(machine.cpus())}"):
        stage.submit("wide", "wide-1")
    stage.training("fat", "pass", resources={"memory_mib": 4_194_304})
    with pytest.raises(NoCapacity, match="4194304 MiB"):
        stage.submit("fat", "fat-1")
    for name in ("gpu", "wide", "fat"):
        assert stage.client.request("GET", f"/v1/trainings/{name}/runs")["runs"] == []


def test_runs_wait_for_room_in_their_order(stage: Stage) -> None:
    whole = {"vcpu": len(machine.cpus()), "memory_mib": 256}
    stage.training("greedy", "import time; time.sleep(300)", resources=whole, grace_s=0)
    for number in range(3):
        stage.submit("greedy", f"greedy-{number}")
    stage.running("greedy", "greedy-0")
    states = {run["id"]: run["state"] for run in stage.client.request("GET", "/v1/trainings/greedy/runs")["runs"]}
    assert states == {"greedy-2": "pending", "greedy-1": "pending", "greedy-0": "running"}
    assert list(states) == ["greedy-2", "greedy-1", "greedy-0"]
    assert stage.cancel("greedy", "greedy-1").state == "cancelled"
    stage.cancel("greedy", "greedy-0")
    stage.running("greedy", "greedy-2")
    stage.cancel("greedy", "greedy-2")
