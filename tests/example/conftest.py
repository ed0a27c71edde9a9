"""The example on a slice of its real data: fetched once into the user's cache, cut once a session."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
JOB = ROOT / "training_jobs" / "employment"
ROWS_A_YEAR = 1500


def load(path: Path, name: str) -> ModuleType:
    """A module by its path, under a name that no other module has."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class Trained:
    """What one run of train.py left behind."""

    def __init__(self, done: subprocess.CompletedProcess[str], folder: Path) -> None:
        self.returncode, self.log = done.returncode, done.stdout + done.stderr
        self.model, self.output = folder / "model", folder / "output"

    def json(self, name: str) -> Any:
        return json.loads((self.output / name).read_text("utf-8"))

    @property
    def failure(self) -> str:
        return (self.output / "failure.txt").read_text("utf-8")


def environment(census: Path, into: Path, params: dict[str, Any] | None = None, **more: str) -> dict[str, str]:
    """A job's side of the bargain: nothing but environment variables."""
    folders = {name: into / name for name in ("model", "output", "checkpoints")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("EKIBEN_")},
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "EKIBEN_RUN_ID": "run-1",
        "EKIBEN_TRAINING": "employment",
        "EKIBEN_PARAMS": json.dumps({"rounds": 20, **(params or {})}),
        "EKIBEN_INPUT_CENSUS": str(census),
        "EKIBEN_MODEL_DIR": str(folders["model"]),
        "EKIBEN_OUTPUT_DIR": str(folders["output"]),
        "EKIBEN_CHECKPOINT_DIR": str(folders["checkpoints"]),
        "EKIBEN_NODE_RANK": "0",
        "EKIBEN_NODE_COUNT": "1",
        **more,
    }


def train(census: Path, into: Path, params: dict[str, Any] | None = None) -> Trained:
    done = subprocess.run(
        [sys.executable, "-u", "train.py"],
        cwd=JOB,
        env=environment(census, into, params),
        text=True,
        capture_output=True,
        timeout=240,
    )
    return Trained(done, into)


@pytest.fixture(scope="session")
def census() -> Path:
    """The folder of the three real files."""
    fetch = load(JOB / "fetch.py", "employment_fetch")
    try:
        return fetch.fetch()
    except fetch.CannotFetch as problem:
        pytest.skip(str(problem))


@pytest.fixture(scope="session")
def frames(census: Path) -> dict[str, pd.DataFrame]:
    """1,500 people of each year, in three frames as the real files have them."""
    reference, analysis, target = (
        pd.read_parquet(census / f"employment_MA_{name}.pq") for name in ("reference", "analysis", "analysis_target")
    )
    # Neighbours live in the same kind of household: take every 43rd.
    later = analysis[analysis.groupby("year").cumcount() % 43 == 0].groupby("year").head(ROWS_A_YEAR)
    return {
        "reference": reference[::43].head(ROWS_A_YEAR).reset_index(drop=True),
        "analysis": later,
        "target": target[target["id"].isin(later["id"])],
    }


@pytest.fixture(scope="session")
def parquet(frames: dict[str, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The slice as Parquet, as it would lie in storage."""
    folder = tmp_path_factory.mktemp("census")
    for name, frame in frames.items():
        frame.to_parquet(folder / f"{name}.pq")
    return folder


@pytest.fixture(scope="session")
def trained(parquet: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A model of the slice."""
    done = train(parquet, tmp_path_factory.mktemp("trained"))
    assert done.returncode == 0, done.log
    return done


@pytest.fixture(scope="session")
def job_modules() -> Any:
    """The job's own modules, imported as train.py imports them."""
    sys.path.insert(0, str(JOB))
    try:
        import columns
        import data
        import evaluate
        import model
    finally:
        sys.path.remove(str(JOB))
    return {"columns": columns, "data": data, "evaluate": evaluate, "model": model}
