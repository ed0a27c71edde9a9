"""A service of arrays, frames and rows."""

import datetime
from typing import Annotated, Any

import bentoml
import numpy as np
import pandas as pd
from bentoml.validators import DataframeSchema, DType, Shape
from pydantic import BaseModel, ConfigDict, Field


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    age: int = Field(ge=0)
    name: str = "nobody"
    born: datetime.date | None = None


class Answer(BaseModel):
    name: str
    score: float
    adult: bool = True


Grid = Annotated[np.ndarray, DType("float32"), Shape((-1, 3))]


@bentoml.service(name="tables")
class Probe:
    @bentoml.api
    def predict(self, x: Grid) -> np.ndarray:
        x += 0  # it is the method's own
        return x.sum(axis=1)

    @bentoml.api
    def root(self, x: Annotated[np.ndarray, DType("int8"), Shape((2, 2))], /) -> Annotated[np.ndarray, DType("int8")]:
        return x

    @bentoml.api
    def same(self, x: np.ndarray) -> np.ndarray:
        return x

    @bentoml.api
    async def several(
        self, a: Annotated[np.ndarray, DType("int16")], b: np.ndarray, times: int = 1
    ) -> dict[str, np.ndarray]:
        return {"a": a * np.int16(times), "b": b}

    @bentoml.api
    def frame(self, x: pd.DataFrame) -> pd.DataFrame:
        x["total"] = x.sum(axis=1)
        return x

    @bentoml.api
    def columns(self, x: Annotated[pd.DataFrame, DataframeSchema(columns=("b", "a"))], k: int = 1) -> pd.DataFrame:
        return x * k

    @bentoml.api
    def rows(self, people: Annotated[list[Person], Field(max_length=3)], bonus: float = 0.0) -> list[Answer]:
        return [Answer(name=each.name, score=each.age / 2 + bonus, adult=each.age >= 18) for each in people]

    @bentoml.api
    def scalars(self, n: int, text: str = "x", flags: list[bool] = Field(default_factory=list)) -> dict[str, Any]:  # noqa: B008
        return {"n": n, "text": text, "flags": flags}

    @bentoml.api
    def one(self, person: Person) -> Answer:
        return Answer(name=person.name, score=person.age)

    @bentoml.api
    def text(self, text: str, /) -> str:
        return text

    @bentoml.api
    def told(self, x: Grid, ctx: bentoml.Context) -> np.ndarray:
        ctx.response.status_code = 202
        ctx.response.headers["x-told"] = "yes"
        return x

    @bentoml.api
    def kinds(self, dtype: str) -> np.ndarray:
        return np.array([[1, 0], [0, 1]]).astype(dtype)
