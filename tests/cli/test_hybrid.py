"""The program and the commands of docs/hybrid.md as they stand there, with a small XGBoost model: two providers, the same bits."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ekiben as ek
from ekiben.emulators import aws, stacks

from .test_readme import ROOT, Walk

PAGE = (ROOT / "docs" / "hybrid.md").read_text(encoding="utf-8")
ROWS, COLUMNS = 10_000, 5
SERVICE = """
from pathlib import Path

import bentoml
import numpy as np
import xgboost

@bentoml.service(image=bentoml.images.Image(python_version="VERSION").requirements_file("requirements.txt"))
class Income:
    def __init__(self) -> None:
        self.booster = xgboost.Booster({"nthread": 1}, model_file=Path(__file__).parent / "model" / "model.ubj")

    @bentoml.api
    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.booster.inplace_predict(rows.astype(np.float32))
""".replace("VERSION", ".".join(map(str, sys.version_info[:2])))
JOB = """
import json
import numpy as np, pyarrow.parquet as pq, xgboost
from ekiben import job

(file,) = job.inputs()["census"].glob("*.parquet")
table = np.stack([column.to_numpy() for column in pq.read_table(file).columns], axis=1).astype(np.float32)
x, y = table[:, :-1], table[:, -1]
asked = {"objective": "binary:logistic", "max_depth": 6, "nthread": 1, "seed": 1}
booster = xgboost.train(asked, xgboost.DMatrix(x, y), num_boost_round=50)
booster.save_model(job.model_dir() / "model.ubj")
sample = {"route": "predict", "request": {"rows": x[:2].tolist()}, "response": booster.inplace_predict(x[:2]).tolist()}
(job.output_dir() / "signature.json").write_text(json.dumps({"columns": list("abcde"), "sample": sample}))
(job.output_dir() / "metrics.json").write_text(json.dumps({"metrics": {"rows": len(x)}}))
"""


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return found[1]


class Hybrid(Walk):
    """The page's project, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.folder = folder
        for name in ("infra", "bentos/employment", "training_jobs/employment"):
            (folder / name).mkdir(parents=True)
        (folder / "Pulumi.yaml").write_text("name: shop\nruntime: python\nmain: infra/\n")
        (folder / "Pulumi.hybrid.yaml").write_text(block("yaml"))
        (folder / "infra" / "__main__.py").write_text(block("python"))
        shutil.copytree(ROOT / "functions" / "register", folder / "functions" / "register")
        pins = [f"{name}=={importlib.metadata.version(name)}\n" for name in ("bentoml", "numpy", "xgboost-cpu")]
        (folder / "bentos" / "employment" / "requirements.txt").write_text("".join(pins))
        (folder / "bentos" / "employment" / "service.py").write_text(SERVICE)
        (folder / "training_jobs" / "employment" / "train.py").write_text(JOB)
        random = np.random.default_rng(7)
        x = random.normal(size=(2000, COLUMNS)).astype(np.float32)
        y = x @ np.array([1.0, -2.0, 0.5, 0.0, 3.0]) + random.normal(scale=0.3, size=2000) > 0
        pq.write_table(pa.table([*x.T, y], names=[*"abcde", "y"]), folder / "data.parquet")
        self.rows = random.normal(size=(ROWS, COLUMNS)).astype(np.float32)
        (folder / "request.json").write_text(json.dumps({"rows": self.rows.tolist()}))

    def expected(self) -> bytes:
        """What xgboost itself makes of the run's model."""
        import xgboost

        (run,) = self.json("ekiben runs")
        lake = ek.connect(self.folder / ".ekiben" / "hybrid" / "platform.json").storage("lake")
        lake.download(f"{lake.key(run['model_uri']).rstrip('/')}/model.ubj", self.folder / "model.ubj")
        model = xgboost.Booster({"nthread": 1}, model_file=self.folder / "model.ubj")
        return bits(model.inplace_predict(self.rows))


def bits(values: Any) -> bytes:
    return np.asarray(values, np.float32).tobytes()


@pytest.mark.engine
@pytest.mark.timeout(900)
def test_the_commands_of_the_page(tmp_path: Path) -> None:
    here, said = Hybrid(tmp_path.resolve()), ""
    answers: dict[str, bytes] = {}
    expected = b""
    try:
        for line in re.findall(r"^\$ (.*)$", block("console"), re.MULTILINE):
            verb = line.split()[1]
            if verb == "approve":
                here.until("ekiben models", lambda found: found)
            if verb == "invoke":
                expected = expected or here.expected()
                answers[line.split()[2]] = bits(json.loads(here.run(line).stdout))
                continue
            said = here.run(line).stdout
            if verb == "copy":
                copied_as_it_is(here, line)
            if verb == "models":
                assert re.search(
                    r"^models +employment:1 .*^cloud-models|^cloud-models +employment:1 .*^models", said, re.M | re.S
                )
        assert len(expected) == 4 * ROWS
        assert answers == {"employment-api": expected, "cloud-api": expected}
        assert "hybrid: nothing left." in said
    finally:
        if (tmp_path / ".ekiben" / "hybrid").exists():
            here.run("ekiben destroy --yes")
        aws.stop(stacks.state_dir(tmp_path.resolve()))


def copied_as_it_is(here: Hybrid, line: str) -> None:
    """One version in each registry, of one digest; copying again adds nothing."""
    again = here.json(line)
    assert (again["registry"], again["provider"], again["state"]) == ("cloud-models", "aws", "approved")
    there, source = (
        here.json(f"ekiben models employment:1 --registry {registry}") for registry in ("cloud-models", "models")
    )
    kept = ("key", "digest", "run_id", "metrics", "signature", "sample", "state")
    assert {name: there[name] for name in kept} == {name: source[name] for name in kept}
    assert there["bento_uri"].startswith("s3://")
    assert [one["version"] for one in there["lineage"].pop("copied")] == ["employment:1"]
    assert there["lineage"] == source["lineage"]
    approved = there["audit"][-1]
    assert "for callers outside; copied from models (local)" in approved["why"]
    assert "better than the baseline in every slice" in approved["why"]
    assert len(there["audit"]) == 2
    assert len(here.json("ekiben models")) == 2
