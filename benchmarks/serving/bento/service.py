"""Breast cancer from 30 measurements of a cell's nucleus: the model that all servers of the benchmark serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import bentoml
import numpy as np
import xgboost
from bentoml.images import Image
from bentoml.validators import DType, Shape


@bentoml.service(
    name="cancer", image=Image(python_version="3.11", lock_python_packages=False).requirements_file("requirements.txt")
)
class Cancer:
    def __init__(self) -> None:
        self.booster = xgboost.Booster(model_file=str(Path(__file__).parent / "model" / "model.ubj"))

    @bentoml.api
    def predict(self, rows: Annotated[np.ndarray, DType("float32"), Shape((-1, 30))]) -> np.ndarray:
        return self.booster.inplace_predict(rows)
