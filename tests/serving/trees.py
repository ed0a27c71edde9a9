"""Small models of every kind, made by xgboost itself, and what a process says that uses the stand-in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import xgboost

COLUMNS, ROWS = 7, 240
LIBRARY = Path(__file__).parents[2] / "providers"

KINDS: dict[str, dict[str, Any]] = {
    "binary": {"objective": "binary:logistic", "max_depth": 4},
    "margins": {"objective": "binary:logitraw", "base_score": 0.3},
    "classes": {"objective": "multi:softprob", "num_class": 3},
    "class": {"objective": "multi:softmax", "num_class": 3},
    "regression": {"objective": "reg:squarederror", "max_depth": 6},
    "counts": {"objective": "count:poisson"},
    "ranking": {"objective": "rank:pairwise"},
    "survival": {"objective": "survival:cox"},
    "forest": {"objective": "reg:squarederror", "num_parallel_tree": 4, "subsample": 0.7},
    "dart": {"objective": "binary:logistic", "booster": "dart", "rate_drop": 0.4},
    "linear": {"objective": "reg:squarederror", "booster": "gblinear"},
    "vectors": {"objective": "reg:squarederror", "multi_strategy": "multi_output_tree"},
    "outputs": {"objective": "reg:squarederror", "multi_strategy": "one_output_per_tree"},
    "categories": {"objective": "binary:logistic"},
    "named": {"objective": "binary:logistic"},
}


@cache
def model(kind: str, depth: int = 0, rounds: int = 12, seed: int = 1) -> bytes:
    """The saved bytes of a model of this kind."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    values[random.random(values.shape) < 0.15] = np.nan
    sums = np.nan_to_num(values).sum(axis=1)
    names = types = group = None
    target: Any = sums
    if kind in ("binary", "margins", "dart", "named", "categories"):
        target = (sums > 0).astype(float)
    elif kind in ("classes", "class"):
        target = np.digitize(sums, [-1, 1])
    elif kind in ("counts", "survival"):
        target = np.abs(sums).round() + 1
    elif kind == "ranking":
        target, group = np.digitize(sums, [-1, 1]), [ROWS // 2, ROWS // 2]
    elif kind in ("vectors", "outputs"):
        target = np.column_stack([sums, -sums, sums**2])
    if kind == "named":
        names = ["größe", "年齢", "a b", "c", "d", "e", "f"]
    elif kind == "categories":
        values[:, 0] = random.integers(0, 9, ROWS)
        types = ["c", *["q"] * (COLUMNS - 1)]
    data = xgboost.DMatrix(
        values, target, feature_names=names, feature_types=types, enable_categorical=types is not None
    )
    if group:
        data.set_group(group)
    asked = {"nthread": 1, "seed": seed, "max_depth": depth or 3, "tree_method": "hist", **KINDS[kind]}
    if KINDS[kind].get("booster") == "gblinear":
        del asked["tree_method"], asked["max_depth"]
    return bytes(xgboost.train(asked, data, rounds).save_raw())


def make_bento(folder: Path, kind: str = "binary", **manifest: Any) -> Path:
    """What of a bento the stand-in looks at."""
    (folder / "src" / "model").mkdir(parents=True)
    (folder / "src" / "model" / "model.ubj").write_bytes(model(kind))
    (folder / "bento.yaml").write_text("service: service:Model\n", encoding="utf-8")
    (folder / "ekiben.json").write_text(json.dumps({"schema": 1, **manifest}), encoding="utf-8")
    return folder


def verdict(**changes: Any) -> dict[str, Any]:
    """What a manifest says of a model that is answered equally."""
    from ekiben.serving.trees import KIND

    return {
        "kind": KIND, "bound": 0.0, "max_difference": 0.0, "rows": 512, "library": f"xgboost {xgboost.__version__}",
        "models": ["model.ubj"], **changes,
    }  # fmt: skip


def told(program: str, *arguments: str, bento: Path | None = None, cache: Path, **env: str) -> Any:
    """What a fresh process prints as JSON that has the stand-in for `bento` in place, where it may."""
    start = "import sys, logging; from pathlib import Path; logging.basicConfig(level=logging.INFO)\n"
    if bento is not None:
        start += f"from ekiben.serving import trees; trees.install(Path({str(bento)!r}))\n"
    done = subprocess.run(
        [sys.executable, "-c", start + program, *arguments],
        env={**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(LIBRARY), "OMP_NUM_THREADS": "1", **env},
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "log": done.stderr}
