"""What AWS has in stock for training: images and instance types, from a table made at release time (docs/stock.py)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from ekiben.errors import NoCapacity, SpecError

__all__ = ["image", "instance", "longest"]

# Of an instance's memory the share that a job may have: the rest is the system's and the container runtime's.
SHARE = 0.9


def image(region: str, *, gpus: int = 0) -> str:
    """The URI of the stock image with a Python that Ekiben runs on. Raises SpecError for a region that the table lacks."""
    table = _table()
    found = table["images"]["gpu" if gpus else "cpu"]
    if region not in found["hosts"]:
        raise SpecError(
            f"There is no stock image for training in the region {region!r} (as of {table['date']}); there is one in: "
            f"{', '.join(found['hosts'])}."
        )
    return f"{found['hosts'][region]}/{found['name']}"


def longest(*, gpus: int = 0) -> str:
    """The longest URI that `image` returns for any region."""
    return max((image(region, gpus=gpus) for region in _table()["images"]["gpu" if gpus else "cpu"]["hosts"]), key=len)


def instance(vcpu: float, memory_mib: int, *, gpus: int = 0, gpu: str = "") -> str:
    """The smallest instance type that has all this; `gpu` is a neutral name, empty takes any. Raises NoCapacity."""
    for name, (has_vcpu, has_mib, has_gpus, kind) in _table()["instances"].items():
        fits = has_vcpu >= vcpu and has_mib * SHARE >= memory_mib and has_gpus >= gpus
        if fits and bool(gpus) == bool(has_gpus) and (not gpu or _same(gpu, kind)):
            return str(name)
    wanted = f"{vcpu:g} vCPUs and {memory_mib} MiB" + (f" and {gpus} {gpu or 'GPU'}" if gpus else "")
    kinds = sorted({row[3] for row in _table()["instances"].values() if row[3]})
    raise NoCapacity(
        "aws",
        "choose an instance for training",
        f"no type has {wanted}",
        f"Ask for less; the GPUs are {', '.join(kinds)}",
    )


def _same(gpu: str, kind: str) -> bool:
    """ "A100" takes both A100-40 and A100-80."""
    return kind.casefold() == gpu.casefold() or kind.casefold().startswith(f"{gpu.casefold()}-")


@cache
def _table() -> dict[str, Any]:
    return dict(json.loads(Path(__file__).with_name("stock.json").read_text(encoding="utf-8")))
