"""How much power does the house draw? A plain BentoML service with a route for batches, which is what `ekiben invoke` calls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import bentoml
import numpy as np
import xgboost
from bentoml.images import Image
from bentoml.validators import DType, Shape

Readings = Annotated[np.ndarray, DType("float32"), Shape((-1, 6))]


@bentoml.service(
    name="power", image=Image(python_version="3.11", lock_python_packages=False).requirements_file("requirements.txt")
)
class Power:
    """Global active power in kilowatts, from the other readings of the same minute."""

    def __init__(self) -> None:
        self.booster = xgboost.Booster(model_file=Path(__file__).parent / "model" / "model.ubj")

    @bentoml.api
    def predict(self, readings: Readings) -> np.ndarray:
        """One number a row; a reading that is missing is NaN."""
        return self.booster.inplace_predict(readings)
