"""A service that takes every kind of argument. Its methods do nothing that could fail, so that a 500 is never theirs."""

import datetime
import decimal
import enum
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated, Any, Literal

import bentoml
import numpy as np
import pandas as pd
from bentoml.validators import ContentType, DataframeSchema, DType, Shape
from PIL import Image as Picture
from pydantic import BaseModel, ConfigDict, Field, field_validator


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid")
    age: int = Field(ge=0, le=99)
    name: str = Field(default="nobody", max_length=10)
    born: datetime.date | None = None
    friends: list["Person"] = []

    @field_validator("name")
    @classmethod
    def no_bob(cls, value):
        if value == "bob":
            raise ValueError("not bob")
        return value


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    bark: float


class Own(bentoml.IODescriptor):
    left: int
    right: int = 5
    grid: Annotated[np.ndarray, DType("int64")] = Field(default=[1])


@bentoml.service(
    name="fuzzed",
    traffic={"timeout": 20},
    http={"cors": {"enabled": True, "access_control_allow_origins": ["http://a"]}},
    logging={"access": {"enabled": True}},
)
class Probe:
    @bentoml.api
    async def one(self, person: Person, times: int = 1) -> Person:
        return person

    @bentoml.api
    async def many(self, people: Annotated[list[Person], Field(min_length=1, max_length=3)]) -> list[Person]:
        return people

    @bentoml.api
    async def root(self, person: Person, /) -> Person:
        return person

    @bentoml.api
    async def root_list(self, numbers: list[int], /) -> list[int]:
        return numbers

    @bentoml.api
    async def root_dict(self, given: dict[str, float], /) -> dict[str, float]:
        return given

    @bentoml.api
    async def root_text(self, text: str, /) -> str:
        return text

    @bentoml.api
    async def root_default(self, number: int = 7, /) -> int:
        return number

    @bentoml.api
    async def scalars(self, a: int, b: float = 1.5, c: bool = False, d: str = "x", e: bytes | None = None) -> dict:
        return {"a": a, "b": b, "c": c, "d": d}

    @bentoml.api
    async def kinds(
        self,
        when: datetime.datetime,
        colour: Colour = Colour.RED,
        size: Literal["s", "m"] = "s",
        price: decimal.Decimal = decimal.Decimal(1),
        id: uuid.UUID | None = None,
        lasts: datetime.timedelta = datetime.timedelta(1),
    ) -> list[str]:
        return [colour.value, size]

    @bentoml.api
    async def unions(self, x: int | str, y: list[int] | dict[str, int] | None = None) -> dict:
        return {"x": x, "y": y}

    @bentoml.api
    async def animal(self, animal: Annotated[Cat | Dog, Field(discriminator="kind")]) -> Cat | Dog:
        return animal

    @bentoml.api
    async def either(self, animal: Cat | Dog, /) -> Cat | Dog:
        return animal

    @bentoml.api
    async def untyped(self, x, y=2):
        return [type(x).__name__, type(y).__name__]

    @bentoml.api
    async def more(self, x: int, **rest: int) -> int:
        return len(rest)

    @bentoml.api
    async def array(self, x: Annotated[np.ndarray, DType("float64"), Shape((2, 2))]) -> np.ndarray:
        return x

    @bentoml.api
    async def array_any(self, x: np.ndarray) -> list[int]:
        return list(x.shape)

    @bentoml.api
    async def array_text(self, x: Annotated[np.ndarray, DType("str_")]) -> list[int]:
        return list(x.shape)

    @bentoml.api
    async def array_root(
        self, x: Annotated[np.ndarray, DType("float32")], /
    ) -> Annotated[np.ndarray, DType("float32")]:
        return x

    @bentoml.api
    async def array_ints(self, x: Annotated[np.ndarray, DType("int32")]) -> np.ndarray:
        return x

    @bentoml.api
    async def array_in(self, x: list[np.ndarray]) -> int:
        return len(x)

    @bentoml.api(batchable=True)
    async def batched(self, x: Annotated[np.ndarray, DType("float32")]) -> np.ndarray:
        return x

    @bentoml.api
    async def arrays(
        self, x: Annotated[np.ndarray, DType("float64")], y: Annotated[np.ndarray, DType("float32")]
    ) -> dict[str, np.ndarray]:
        return {"x": x, "y": y}

    @bentoml.api
    async def rows(self, people: list[Person]) -> int:
        return len(people)

    @bentoml.api
    async def frame(self, x: pd.DataFrame) -> list[int]:
        return list(x.shape)

    @bentoml.api
    async def frame_columns(
        self, x: Annotated[pd.DataFrame, DataframeSchema(orient="columns", columns=("a", "b"))], /
    ) -> list[int]:
        return list(x.shape)

    @bentoml.api
    async def file(self, f: Path, note: str = "none", n: int = 1) -> int:
        return f.stat().st_size

    @bentoml.api
    async def file_kind(self, f: Annotated[Path, ContentType("image/*")]) -> int:
        return f.stat().st_size

    @bentoml.api
    async def files(self, f: list[Path]) -> int:
        return len(f)

    @bentoml.api
    async def file_root(self, f: Path, /) -> int:
        return f.stat().st_size

    @bentoml.api
    async def picture(self, picture: Picture.Image) -> list[int]:
        return list(picture.size)

    @bentoml.api(input_spec=Own)
    async def own(self, **given: Any) -> int:
        return len(given)

    @bentoml.api
    async def seen(self, ctx: bentoml.Context) -> int:
        request = ctx.request
        return len(request.headers) + len(request.query_params) + len(request.cookies) + len(str(request.url))

    @bentoml.api
    async def stream(self, n: int) -> AsyncGenerator[str, None]:
        for number in range(min(n, 20)):
            yield f"{number}\n"
