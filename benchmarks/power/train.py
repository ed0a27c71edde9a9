"""A training job for the household power data: Global_active_power from the other readings, by a small XGBoost model."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xgboost

from ekiben import job

TARGET = "Global_active_power"
COLUMNS = [
    "Global_reactive_power", "Voltage", "Global_intensity", "Sub_metering_1", "Sub_metering_2", "Sub_metering_3",
]  # fmt: skip
ROUNDS = 100
PARAMS: dict[str, Any] = {"max_depth": 6, "eta": 0.2, "objective": "reg:squarederror", "seed": 7, "nthread": 2}
# Every so many rows: enough for a model that is there to be timed.
STEP = 20


def main() -> None:
    data = job.inputs()["power"] / "minute_household_power.csv.xz"
    metrics = train(data, job.model_dir())
    (job.output_dir() / "metrics.json").write_text(json.dumps({"metrics": metrics}), "utf-8")
    (job.output_dir() / "signature.json").write_text(json.dumps(signature(job.model_dir())), "utf-8")


def train(data: Path, into: Path) -> dict[str, float]:
    """Write model.ubj from the rows of the CSV file; the error on rows that it has not seen, in kilowatts."""
    with lzma.open(data) as file:
        rows = pd.read_csv(
            file, na_values=["?"], usecols=[TARGET, *COLUMNS], skiprows=lambda i: i % STEP > 1, dtype="float32"
        )
    rows = rows.dropna(subset=[TARGET])
    seen, unseen = rows.iloc[::2], rows.iloc[1::2]
    matrix = xgboost.QuantileDMatrix(seen[COLUMNS].to_numpy(), seen[TARGET])
    booster = xgboost.train(PARAMS, matrix, ROUNDS)
    into.mkdir(parents=True, exist_ok=True)
    booster.save_model(into / "model.ubj")
    error = booster.inplace_predict(unseen[COLUMNS].to_numpy()) - unseen[TARGET].to_numpy()
    return {"rmse": float(np.sqrt(np.mean(error**2))), "rows": float(len(seen))}


def signature(model: Path) -> dict[str, Any]:
    """The columns in the order of the model, and a minute with its answer."""
    minute = [[0.418, 234.84, 18.4, 0.0, 1.0, 17.0]]
    answer = xgboost.Booster(model_file=model / "model.ubj").inplace_predict(np.array(minute, np.float32))
    sample = {"route": "predict", "request": {"readings": minute}, "response": answer.tolist()}
    return {"columns": COLUMNS, "target": TARGET, "sample": sample}


if __name__ == "__main__":
    main()
