"""train.py as a provider runs it: environment variables in, files out."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.example.conftest import JOB, Trained, environment, train


def test_a_run_leaves_all_that_a_job_owes(trained: Trained) -> None:
    metrics = trained.json("metrics.json")["metrics"]
    assert all(isinstance(value, float) for value in metrics.values())
    assert metrics["auc"] > metrics["baseline_auc"] > 0.7
    assert 0.0 < metrics["threshold"] < 1.0
    groups = {(row["by"], row["group"]) for row in trained.json("metrics.json")["slices"]}
    assert {("sex", "male"), ("sex", "female"), ("race", "White"), ("race", "Asian"), ("age", "25 to 34")} <= groups
    assert trained.json("lineage.json") == {"rows": {"census": 6000}, "seeds": {"seed": 7}}
    progress = [json.loads(line) for line in (trained.output / "progress.jsonl").read_text("utf-8").splitlines()]
    assert [line["step"] for line in progress if line["name"] == "log_loss"][:2] == [10, 20]
    assert sorted(path.name for path in trained.model.iterdir()) == ["model.json", "model.ubj"]


def test_the_raw_columns_are_declared_and_sex_and_race_are_only_checked(trained: Trained) -> None:
    signature = trained.json("signature.json")
    assert len(signature["columns"]) == 11
    assert signature["target"] == "employed"
    assert signature["checked"] == ["SEX", "RAC1P"]
    assert not {"SEX", "RAC1P", "CIT", "NATIVITY", "ANC", "employed", "prediction"} & set(signature["columns"])
    assert sorted(signature["sample"]["request"]["person"]) == sorted(signature["columns"])


def test_the_report_is_one_page_that_needs_nothing_else(trained: Trained) -> None:
    page = (trained.output / "report.html").read_text("utf-8")
    assert page.count("<svg") == 4
    assert "sex: female" in page
    for other in ("<script", "<link", "src=", "url(http"):
        assert other not in page


def test_csv_and_json_make_the_same_bytes_as_parquet(
    frames: dict[str, pd.DataFrame], trained: Trained, tmp_path: Path
) -> None:
    census = tmp_path / "census" / "2015 à 2018"
    census.mkdir(parents=True)
    half = len(frames["analysis"]) // 2
    frames["reference"].to_csv(census / "référence.csv", index=False, encoding="utf-8-sig")
    frames["analysis"][:half].to_json(census / "first.jsonl", orient="records", lines=True)
    frames["analysis"][half:].to_json(census / "second.json", orient="records")
    frames["target"].sample(frac=1, random_state=1).to_csv(census / "target.csv", index=False)
    (census / "_SUCCESS").touch()
    again = train(tmp_path / "census", tmp_path / "again")
    assert again.returncode == 0, again.log
    files = (
        "model/model.ubj",
        "model/model.json",
        "output/signature.json",
        "output/metrics.json",
        "output/evaluation.jsonl",
        "output/report.html",
    )
    for name in files:
        assert (again.model.parent / name).read_bytes() == (trained.model.parent / name).read_bytes(), name


def test_a_bad_file_is_refused_by_its_rows_and_leaves_no_model(
    frames: dict[str, pd.DataFrame], parquet: Path, tmp_path: Path
) -> None:
    census = tmp_path / "census"
    census.mkdir()
    for path in parquet.iterdir():
        (census / path.name).write_bytes(path.read_bytes())
    bad = frames["reference"].head(5).astype({"AGEP": object, "MAR": object})
    bad["id"] = range(900_000, 900_005)
    bad.iloc[1, bad.columns.get_loc("AGEP")] = -4
    bad.iloc[3, bad.columns.get_loc("MAR")] = "married"
    bad.to_csv(census / "drop.csv", index=False)
    refused = train(census, tmp_path / "out")
    assert refused.returncode == 1
    assert refused.failure.splitlines() == [
        "drop.csv row 2: AGEP '-4' is not from 0 to 99.",
        "drop.csv row 4: MAR 'married' is missing or not a number.",
    ]
    assert "Traceback" not in refused.log
    assert not list(refused.model.iterdir())


@pytest.mark.parametrize("params", [{"rounds": 0}, {"learning_rate": "fast"}, {"trees": 5}])
def test_a_bad_parameter_is_refused_with_what_there_is(params: dict[str, object], job_modules) -> None:
    model = job_modules["model"]
    with pytest.raises(model.BadParams, match=next(iter(params))):
        model.params(params)


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(parquet: Path, tmp_path: Path) -> None:
    params = {"rounds": 400}
    whole = train(parquet, tmp_path / "whole", params)
    first = subprocess.Popen(
        [sys.executable, "-u", "train.py"],
        cwd=JOB,
        env=environment(parquet, tmp_path / "halves", params),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout is not None
    assert any(line.startswith("trees 10/400") for line in first.stdout)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=120)
    assert first.returncode == 143, "told to stop, it leaves"
    assert not list((tmp_path / "halves" / "model").iterdir())
    second = train(parquet, tmp_path / "halves", params)
    assert "\ngoes on after " in second.log
    assert "\ntrees 10/400" not in second.log
    for name in (
        "model/model.ubj",
        "model/model.json",
        "output/metrics.json",
        "output/signature.json",
        "output/report.html",
    ):
        assert (second.model.parent / name).read_bytes() == (whole.model.parent / name).read_bytes(), name


@pytest.mark.parametrize("stops", [[1], [7, 8, 19], [20]])
def test_wherever_it_stopped_the_model_is_the_same(
    frames: dict[str, pd.DataFrame], stops: list[int], tmp_path: Path, job_modules
) -> None:
    import xgboost

    data, model = job_modules["data"], job_modules["model"]
    for name, frame in frames.items():
        frame.to_parquet(tmp_path / f"{name}.pq")
    learn, tune, _ = data.split(data.read(tmp_path))
    params = model.params({"rounds": 20})
    losses: list[float] = []
    whole = model.train(learn, tune, params, lambda _, loss: losses.append(loss))
    again: list[float] = []
    start = None
    for stop in [*stops, 20]:
        so_far = model.train(learn, tune, {**params, "rounds": stop}, lambda _, loss: again.append(loss), start)
        so_far.save_model(tmp_path / "model.ubj")
        start = xgboost.Booster(model_file=tmp_path / "model.ubj")
    assert so_far.save_raw("ubj") == whole.save_raw("ubj")
    assert again == losses


def test_two_nodes_make_one_model_close_to_that_of_one(trained: Trained, parquet: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    nodes = [
        subprocess.Popen(
            [sys.executable, "-u", "train.py"],
            cwd=JOB,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(
                parquet,
                tmp_path / str(rank),
                EKIBEN_NODE_RANK=str(rank),
                EKIBEN_NODE_COUNT="2",
                EKIBEN_MASTER_ADDR="127.0.0.1",
                EKIBEN_MASTER_PORT=port,
            ),
        )
        for rank in (0, 1)
    ]
    try:
        logs = [node.communicate(timeout=200)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], logs
    assert not list((tmp_path / "1" / "model").iterdir())
    together = json.loads((tmp_path / "0" / "output" / "metrics.json").read_text("utf-8"))["metrics"]
    alone = trained.json("metrics.json")["metrics"]
    assert together["auc"] == pytest.approx(alone["auc"], abs=0.01)
    assert together["log_loss"] == pytest.approx(alone["log_loss"], abs=0.01)
