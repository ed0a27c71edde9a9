"""The job's side: which node this is on every platform, and the folders."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from ekiben import job
from ekiben.errors import SpecError
from ekiben.job import Node
from tests.waiting import PATIENCE_S

NOWHERE = Path("/nonexistent/resourceconfig.json")


def node(**env: str) -> Node:
    return job.node(env, resource_config=NOWHERE)


def vertex(type: str, index: int, *sizes: int) -> str:
    pools = {f"workerpool{i}": [f"cmle-{i}-{j}:2222" for j in range(size)] for i, size in enumerate(sizes)}
    return json.dumps({"cluster": pools, "task": {"type": type, "index": index}, "environment": "cloud"})


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, Node()),
        (
            {"EKIBEN_NODE_RANK": "1", "EKIBEN_NODE_COUNT": "3", "EKIBEN_MASTER_ADDR": "a", "EKIBEN_MASTER_PORT": "7"},
            Node(rank=1, count=3, master_addr="a", master_port=7),
        ),
        ({"EKIBEN_NODE_RANK": "0"}, Node()),
        (
            {
                "PET_NODE_RANK": "2",
                "PET_NNODES": "2:4",
                "PET_MASTER_ADDR": "job-node-0-0.job",
                "PET_MASTER_PORT": "29400",
            },
            Node(rank=2, count=4, master_addr="job-node-0-0.job", master_port=29400),
        ),
        ({"CLUSTER_SPEC": vertex("workerpool0", 0, 1)}, Node(master_addr="cmle-0-0", master_port=2222)),
        (
            {"CLUSTER_SPEC": vertex("workerpool1", 1, 1, 3)},
            Node(rank=2, count=4, master_addr="cmle-0-0", master_port=2222),
        ),
        (
            {"CLUSTER_SPEC": vertex("workerpool2", 0, 1, 2, 2)},
            Node(rank=3, count=5, master_addr="cmle-0-0", master_port=2222),
        ),
        (
            {
                "NODE_RANK": "1",
                "MASTER_ADDR": "10.0.0.4",
                "MASTER_PORT": "6105",
                "WORLD_SIZE": "8",
                "EKIBEN_NODE_COUNT": "2",
            },
            Node(rank=1, count=2, master_addr="10.0.0.4", master_port=6105),
        ),
        (
            {"NODE_RANK": "1", "MASTER_ADDR": "m", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"},
            Node(rank=1, count=2, master_addr="m"),
        ),
        (
            {"JOB_COMPLETION_INDEX": "1", "EKIBEN_NODE_COUNT": "2", "EKIBEN_MASTER_ADDR": "job-0.svc"},
            Node(rank=1, count=2, master_addr="job-0.svc"),
        ),
        ({"JOB_COMPLETION_INDEX": "0"}, Node()),
        (
            {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "AZ_BATCH_MASTER_NODE": "10.0.0.4:6000"},
            Node(rank=1, count=2, master_addr="10.0.0.4"),
        ),
    ],
)
def test_the_rank_is_found_on_every_platform(env: dict[str, str], expected: Node) -> None:
    assert node(**env) == expected


def test_what_ekiben_says_goes_before_what_the_platform_says() -> None:
    platforms = [
        {"EKIBEN_NODE_RANK": "1", "EKIBEN_NODE_COUNT": "9"},
        {"PET_NODE_RANK": "2", "PET_NNODES": "9"},
        {"CLUSTER_SPEC": vertex("workerpool1", 2, 1, 8)},
        {"NODE_RANK": "4", "MASTER_ADDR": "m", "WORLD_SIZE": "9"},
        {"JOB_COMPLETION_INDEX": "5"},
        {"OMPI_COMM_WORLD_RANK": "6", "OMPI_COMM_WORLD_SIZE": "9"},
    ]
    for first, expected in ((0, 1), (1, 2), (2, 3), (3, 4)):
        merged = {key: value for env in reversed(platforms[first:]) for key, value in env.items()}
        assert job.node(merged, resource_config=NOWHERE).rank == expected


@given(st.integers(1, 40), st.data())
def test_sagemakers_hosts_are_counted_not_spelled(count: int, data: st.DataObject) -> None:
    import tempfile

    hosts = [f"algo-{i}" for i in range(1, count + 1)]
    rank = data.draw(st.integers(0, count - 1))
    shuffled = data.draw(st.permutations(hosts))
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "resourceconfig.json"
        config.write_text(
            json.dumps({"current_host": hosts[rank], "hosts": shuffled, "network_interface_name": "eth0"})
        )
        assert job.node({}, resource_config=config) == Node(rank=rank, count=count, master_addr="algo-1")
        assert job.node({"PET_NODE_RANK": "0"}, resource_config=config) == Node()


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12))
def test_vertex_gives_each_replica_its_own_rank(sizes: list[int]) -> None:
    ranks = [
        node(CLUSTER_SPEC=vertex(f"workerpool{i}", j, *sizes)).rank for i, size in enumerate(sizes) for j in range(size)
    ]
    assert ranks == list(range(sum(sizes)))


@pytest.mark.parametrize(
    "env",
    [
        {"EKIBEN_NODE_RANK": "two"},
        {"EKIBEN_NODE_RANK": ""},
        {"EKIBEN_NODE_RANK": "2", "EKIBEN_NODE_COUNT": "2"},
        {"EKIBEN_NODE_RANK": "-1", "EKIBEN_NODE_COUNT": "2"},
        {"EKIBEN_NODE_RANK": "0", "EKIBEN_NODE_COUNT": "2", "EKIBEN_MASTER_ADDR": ""},
        {"CLUSTER_SPEC": "not json"},
        {"CLUSTER_SPEC": "[]"},
        {"CLUSTER_SPEC": "{}"},
        {"CLUSTER_SPEC": vertex("evaluator", 0, 1)},
        {"PET_NODE_RANK": "0", "PET_NNODES": "many"},
    ],
)
def test_a_contradiction_is_an_error_not_a_second_master(env: dict[str, str]) -> None:
    with pytest.raises(SpecError):
        node(**env)


def test_a_host_that_is_not_in_sagemakers_list_is_an_error(tmp_path: Path) -> None:
    config = tmp_path / "resourceconfig.json"
    config.write_text(json.dumps({"current_host": "algo-3", "hosts": ["algo-1", "algo-2"]}))
    with pytest.raises(SpecError, match="which of its hosts"):
        job.node({}, resource_config=config)


def test_inputs_params_and_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("EKIBEN_MODEL_DIR", "EKIBEN_PARAMS", "EKIBEN_OUTPUT_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert job.params() == {}
    with pytest.raises(SpecError, match="EKIBEN_MODEL_DIR is not set"):
        job.model_dir()
    monkeypatch.setenv("EKIBEN_PARAMS", '{"depth": 3, "name": "ü"}')
    monkeypatch.setenv("EKIBEN_INPUT_TRAIN_SET", "/data/train")
    monkeypatch.setenv("EKIBEN_OUTPUT_DIR", str(tmp_path / "new" / "output"))
    assert job.params() == {"depth": 3, "name": "ü"}
    assert job.inputs()["train_set"] == Path("/data/train")
    job.log_metric("loss", 1, step=2)
    job.log_metric("loss", 0.5, step=3)
    lines = (job.output_dir() / "progress.jsonl").read_text("utf-8").splitlines()
    assert [(json.loads(line)["value"], json.loads(line)["step"]) for line in lines] == [(1.0, 2), (0.5, 3)]
    with pytest.raises(SystemExit) as left:
        job.fail("the data is räudig")
    assert left.value.code == 1
    assert (tmp_path / "new" / "output" / "failure.txt").read_text("utf-8") == "the data is räudig"


def test_one_node_needs_no_collective_and_no_xgboost() -> None:
    program = "import sys; from ekiben import job\nwith job.xgboost_collective() as me: print(me.count, 'xgboost' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=_clean())
    assert told.stdout.split() == ["1", "False"]


def test_a_job_sees_that_it_is_to_stop() -> None:
    program = (
        "import sys, time; from ekiben import job\n"
        "assert not job.terminating()\nprint('ready', flush=True)\n"
        "while not job.terminating(): time.sleep(0.01)\nprint('checkpoint written')"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=_clean())
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=PATIENCE_S)[0] == "checkpoint written\n"
    assert process.returncode == 0


@pytest.fixture
def checkpoints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("EKIBEN_CHECKPOINT_DIR", str(tmp_path / "checkpoints"))
    return tmp_path / "checkpoints"


def test_the_latest_checkpoint_is_the_highest_step_and_two_stay(checkpoints: Path) -> None:
    assert job.latest_checkpoint() is None

    def deep(text: str) -> Callable[[Path], None]:
        def write(folder: Path) -> None:
            (folder / "deep").mkdir()
            (folder / "deep" / "x").write_text(text)

        return write

    for step in (9, 10, 100):
        job.save_checkpoint(step, deep(str(step)))
    found = job.latest_checkpoint()
    assert found is not None
    assert (found.step, (found.folder / "deep" / "x").read_text()) == (100, "100")
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-0000000010", "step-0000000100"]
    job.save_checkpoint(100, lambda folder: (folder / "y").touch())
    assert [path.name for path in found.folder.iterdir()] == ["y"], "made again, it is the new one"


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(checkpoints: Path) -> None:
    job.save_checkpoint(1, lambda folder: (folder / "x").write_text("1"))

    def fail(folder: Path) -> None:
        (folder / "x").write_text("half")
        raise OSError("the disk is full")

    for step in (1, 2):
        with pytest.raises(OSError, match="full"):
            job.save_checkpoint(step, fail)
    found = job.latest_checkpoint()
    assert found is not None
    assert (found.step, (found.folder / "x").read_text()) == (1, "1")
    assert [path.name for path in checkpoints.iterdir()] == ["step-0000000001"]


def test_a_checkpoint_that_was_being_written_when_the_job_was_killed_is_none(checkpoints: Path) -> None:
    program = (
        "import os; from ekiben import job\n"
        "job.save_checkpoint(1, lambda folder: (folder / 'x').write_text('1'))\n"
        "job.save_checkpoint(2, lambda folder: [(folder / 'x').write_text('2'), os.kill(os.getpid(), 9)])"
    )
    env = _clean() | {"EKIBEN_CHECKPOINT_DIR": str(checkpoints)}
    assert subprocess.run([sys.executable, "-c", program], check=False, env=env).returncode == -signal.SIGKILL
    found = job.latest_checkpoint()
    assert found is not None
    assert found.step == 1
    job.save_checkpoint(2, lambda folder: (folder / "x").write_text("2"))
    assert len(list(checkpoints.iterdir())) == 2, "what it left half is gone"


def test_leaving_is_the_status_of_one_that_obeyed_sigterm() -> None:
    with pytest.raises(SystemExit) as left:
        job.leave()
    assert left.value.code == 143


def test_the_module_brings_nothing_heavy() -> None:
    heavy = ("numpy", "xgboost", "pydantic", "pulumi", "aiohttp")
    program = f"import sys, ekiben.job; print([name for name in {heavy} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=_clean())
    assert told.stdout.strip() == "[]"


def _clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("EKIBEN_")}
