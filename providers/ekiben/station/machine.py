"""The machine's size, and its GPUs as nvidia-smi tells them: what runs may be given."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass

__all__ = ["Gpu", "cpus", "gpus", "memory_mib", "suits"]


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU. id: what CUDA_VISIBLE_DEVICES takes."""

    id: str
    name: str
    memory_mib: int


def gpus() -> list[Gpu]:
    """The GPUs that this process may use; none where nvidia-smi is not there or does not answer."""
    query = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = []
    for line in answer.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 4 and (allowed is None or {fields[0], fields[1]} & set(allowed.split(","))):
            size = fields[3]
            found.append(Gpu(id=fields[0], name=fields[2], memory_mib=int(size) if size.isdigit() else 0))
    return found


def suits(gpu: Gpu, wanted: str) -> bool:
    """Is it the GPU of this neutral name (T4, L4, A100-80, H100)? An empty name takes any."""
    model, _, gib = wanted.upper().partition("-")
    words = re.split(r"[^A-Z0-9]+", gpu.name.upper())
    return (not model or model in words) and (not gib or abs(gpu.memory_mib / 1024 - float(gib)) < 0.1 * float(gib))


def cpus() -> list[int]:
    """The ids of the CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def memory_mib() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
