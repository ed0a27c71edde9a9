"""A service of batchable methods; what is held up waits for a file."""

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Annotated

import bentoml
import numpy as np
import pandas as pd
from bentoml.exceptions import InvalidArgument
from bentoml.validators import DataframeSchema, DType
from pydantic import BaseModel, Field


class Person(BaseModel):
    age: int = Field(ge=0)
    name: str = "nobody"


@bentoml.service(name="batches", traffic={"timeout": 20})
class Probe:
    def __init__(self):
        self.calls = []

    @bentoml.api
    async def seen(self) -> list:
        calls, self.calls = self.calls, []
        return calls

    def held(self, rows):
        # The first call of those that a test holds up; the others gather behind it.
        self.calls.append(len(rows))
        if any(row == -100 for row in rows):
            Path(os.environ["GO"] + ".begun").touch()
            while not Path(os.environ["GO"]).exists():
                time.sleep(0.005)

    @bentoml.api(batchable=True, max_batch_size=4)
    def double(self, x: list[int]) -> list[int]:
        self.held(x)
        return [2 * each for each in x]

    @bentoml.api(batchable=True, max_batch_size=1000)
    async def double_async(self, x: list[int]) -> list[int]:
        self.calls.append(len(x))
        while -100 in x and not Path(os.environ["GO"]).exists():
            Path(os.environ["GO"] + ".begun").touch()
            await asyncio.sleep(0.005)
        return [2 * each for each in x]

    @bentoml.api(batchable=True, max_batch_size=50)
    def root(self, x: list[float], /) -> list[float]:
        return [each / 3 for each in x]

    @bentoml.api(batchable=True, max_batch_size=50)
    def people(self, people: list[Person]) -> list[Person]:
        return [Person(age=each.age + 1, name=each.name) for each in people]

    @bentoml.api(batchable=True, max_batch_size=4)
    def array(self, x: np.ndarray) -> np.ndarray:
        return x * 2

    @bentoml.api(batchable=True, batch_dim=(1, 0), max_batch_size=4)
    def columns(self, x: Annotated[np.ndarray, DType("float64")]) -> np.ndarray:
        return x.sum(axis=0)

    @bentoml.api(batchable=True, batch_dim=(0, -1), max_batch_size=8)
    def last(self, x: Annotated[np.ndarray, DType("int64")]) -> np.ndarray:
        return x.T

    @bentoml.api(batchable=True, max_batch_size=8)
    def tuples(self, x: list[str]) -> tuple[str, ...]:
        return tuple(each.upper() for each in x)

    @bentoml.api(batchable=True)
    def untyped(self, x):
        return x

    @bentoml.api(batchable=True, max_batch_size=1000)
    def careful(self, x: list[int]) -> list[int]:
        self.held(x)
        if any(0 > each > -50 for each in x):
            raise InvalidArgument("no negative numbers")
        if 13 in x:
            raise RuntimeError("secret of the server")
        return x

    @bentoml.api(batchable=True, max_batch_size=1000)
    def wrong_answer(self, x: list[int]) -> list[int]:
        self.held(x)
        return [each if each >= 0 else "no number" for each in x]

    @bentoml.api(batchable=True, max_batch_size=1000)
    def miscounted(self, x: list[int]) -> list[int]:
        self.held(x)
        return [each for each in x if each >= 0]

    @bentoml.api(batchable=True, max_batch_size=3)
    def files(self, f: list[Path]) -> list[str]:
        return [each.read_text() for each in f]

    @bentoml.api(batchable=True)
    def frame(self, x: pd.DataFrame) -> pd.DataFrame:
        return x * 2

    @bentoml.api(batchable=True, max_batch_size=2)
    def scores(self, x: Annotated[pd.DataFrame, DataframeSchema(columns=("a", "b"))]) -> np.ndarray:
        self.calls.append(list(x.index))
        return x["a"].to_numpy() + x["b"].to_numpy()

    @bentoml.api(batchable=True, max_batch_size=1000)
    def several(self, x: list[int], y: np.ndarray, factor: int = 1) -> list[int]:
        self.held(x)
        return [factor * (a + int(np.sum(b))) for a, b in zip(x, y, strict=True)]

    @bentoml.api(batchable=True, max_batch_size=1000)
    def told(self, x: list[int], ctx: bentoml.Context) -> list[str]:
        self.held(x)
        ctx.response.headers["x-seen"] = ctx.request.headers["x-caller"]
        return [ctx.request.headers["x-caller"]] * len(x)

    @bentoml.api(batchable=True, max_batch_size=1000)
    def state(self, x: list[int], ctx: bentoml.Context) -> list[int]:
        self.held(x)
        Path(ctx.temp_dir, "scratch").write_text("x")
        ctx.state["calls"] = ctx.state.get("calls", 0) + 1
        return [ctx.state["calls"]] * len(x)

    @bentoml.api(batchable=True)
    def where(self, x: list[int]) -> list[str]:
        return [threading.current_thread().name] * len(x)

    @bentoml.api(batchable=True, max_latency_ms=300)
    def hasty(self, x: list[int]) -> list[int]:
        self.held(x)
        return x
