"""Every kind of route that a batch can go to, and what can go wrong in one."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Annotated, Literal

import bentoml
import numpy as np
import pandas as pd
from bentoml.validators import DType, Shape
from pydantic import BaseModel, ConfigDict, Field

Pair = Annotated[np.ndarray, DType("float64"), Shape((-1, 2))]


class Item(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    x: float = Field(ge=0, le=1000)
    größe: float = 1.0
    n: int | None = None
    label: str = "none"


class Answer(BaseModel):
    y: float
    kind: Literal["small", "big"]
    parts: list[float]


@bentoml.service(image=bentoml.images.Image(python_version="3.11").requirements_file("requirements.txt"))
class Sums:
    def __init__(self) -> None:
        self.factor = json.loads((Path(__file__).parent / "model" / "model.json").read_text("utf-8"))["factor"] + 0.0

    @bentoml.api
    def items(self, items: Annotated[list[Item], Field(min_length=1, max_length=100)]) -> list[Answer]:
        answers = []
        for item in items:
            y = self.factor * item.x + item.größe
            answers.append(Answer(y=y, kind="big" if y > 100 else "small", parts=[item.x, item.größe]))
        return answers

    @bentoml.api
    async def matrix(self, pairs: Pair) -> np.ndarray:
        if (pairs[:, 0] == -666).any():
            raise ValueError("666 is no number of mine")
        if (pairs[:, 0] == -999).any():
            os.kill(os.getpid(), signal.SIGKILL)
        if (pairs[:, 0] == -60).any() and len(pairs) > 1:
            time.sleep(60)
        return self.factor * pairs[:, 0] + np.nan_to_num(pairs[:, 1])

    @bentoml.api
    def whole(self, numbers: Annotated[np.ndarray, DType("int8"), Shape((-1, 2))]) -> np.ndarray:
        return numbers.astype("int64") * 2

    @bentoml.api
    def frame(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Waits for the file that a row names in the column `gate`."""
        for gate in rows.get("gate", pd.Series([], dtype=str)).dropna().unique():
            while gate and not Path(gate).exists():
                time.sleep(0.01)
        described = [f"{name}:{kind}" for name, kind in zip(rows.columns, rows.dtypes, strict=True)]
        return pd.DataFrame({"y": rows["x"] * self.factor, "dtypes": [" ".join(described)] * len(rows)})

    @bentoml.api
    def short(self, pairs: Pair) -> np.ndarray:
        return pairs[1:, 0]

    @bentoml.api
    def single(self, x: float) -> float:
        return x * self.factor
