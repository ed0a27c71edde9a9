"""What a run is given of the machine: CPUs, memory, GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from ekiben.errors import NoCapacity
from ekiben.station import machine
from ekiben.station.jobs import check_capacity
from ekiben.station.machine import Gpu
from ekiben.station.supervision import allot

H200 = [Gpu(id=str(i), name="NVIDIA H200", memory_mib=143771) for i in range(4)]


def ask(
    vcpu: float = 1, memory_mib: int = 100, nodes: int = 1, gpu_count: int = 0, gpu: str = "", **more: Any
) -> dict[str, Any]:
    return {
        "id": "r",
        "vcpu": vcpu,
        "memory_mib": memory_mib,
        "nodes": nodes,
        "gpu_count": gpu_count,
        "gpu": gpu,
        **more,
    }


@pytest.mark.parametrize(
    ("name", "mib", "wanted", "expected"),
    [
        ("NVIDIA H200", 143771, "", True),
        ("NVIDIA H200", 143771, "H200", True),
        ("NVIDIA H200", 143771, "H100", False),
        ("NVIDIA A100-SXM4-80GB", 81920, "A100-80", True),
        ("NVIDIA A100-SXM4-40GB", 40960, "A100-80", False),
        ("NVIDIA A100-SXM4-40GB", 40960, "A100", True),
        ("Tesla T4", 15360, "T4", True),
        ("NVIDIA L40S", 46068, "L4", False),
        ("NVIDIA L4", 23034, "l4", True),
    ],
)
def test_a_gpu_is_known_by_its_neutral_name(name: str, mib: int, wanted: str, expected: bool) -> None:
    assert machine.suits(Gpu(id="0", name=name, memory_mib=mib), wanted) is expected


def test_gpus_are_read_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho '0, GPU-aa, NVIDIA H200, 143771'\necho '1, GPU-bb, NVIDIA H200, [N/A]'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.gpus() == [
        Gpu(id="0", name="NVIDIA H200", memory_mib=143771),
        Gpu(id="1", name="NVIDIA H200", memory_mib=0),
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-bb")
    assert [gpu.id for gpu in machine.gpus()] == ["1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.gpus() == []
    smi.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert machine.gpus() == []


def test_gpus_are_given_to_one_run_at_a_time() -> None:
    first = allot(ask(gpu_count=1, nodes=2), [], [0, 1, 2, 3], 1000, H200)
    assert first is not None
    assert first.gpus == [["0"], ["1"]]
    running = [ask(gpu_count=1, nodes=2, cpus=first.cpus, gpus=first.gpus)]
    second = allot(ask(gpu_count=2), running, [0, 1, 2, 3], 1000, H200)
    assert second is not None
    assert second.gpus == [["2", "3"]]
    running.append(ask(gpu_count=2, cpus=second.cpus, gpus=second.gpus))
    assert allot(ask(gpu_count=1), running, [0, 1, 2, 3], 1000, H200) is None
    assert allot(ask(), [], [0], 1000, []).gpus == [[]]  # type: ignore[union-attr]


def test_too_few_gpus_are_an_error_that_counts_them() -> None:
    check_capacity(ask(gpu_count=4, gpu="H200"), H200)
    with pytest.raises(NoCapacity, match=r"asks for 8 H200 GPUs \(2 nodes\) and this machine has 4: NVIDIA H200"):
        check_capacity(ask(gpu_count=4, gpu="H200", nodes=2, vcpu=0.1, memory_mib=1), H200)
    with pytest.raises(NoCapacity, match="asks for 1 T4 GPUs and this machine has 0"):
        check_capacity(ask(gpu_count=1, gpu="T4"), H200)


@given(
    st.lists(st.tuples(st.floats(0.25, 4), st.integers(1, 2), st.integers(100, 500)), max_size=12), st.integers(1, 4)
)
def test_runs_together_never_get_more_than_there_is(asked: list[tuple[float, int, int]], cpus: int) -> None:
    running: list[dict[str, Any]] = []
    for vcpu, nodes, memory_mib in asked:
        wanted = ask(vcpu=vcpu, nodes=nodes, memory_mib=memory_mib)
        given = allot(wanted, running, list(range(cpus)), 1000, [])
        if given is not None:
            assert all(set(node) <= set(range(cpus)) and node for node in given.cpus)
            running.append({**wanted, "cpus": given.cpus, "gpus": given.gpus})
    assert len(running) <= 1 or sum(one["vcpu"] * one["nodes"] for one in running) <= cpus
    assert len(running) <= 1 or sum(one["memory_mib"] * one["nodes"] for one in running) <= 1000
    assert running or not asked
