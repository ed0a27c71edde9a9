"""A service with every shape of argument and answer."""

import asyncio
import datetime
import enum
import os
import time
from collections.abc import AsyncGenerator, Generator
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Literal

import bentoml
import numpy as np
import pandas as pd
from bentoml.exceptions import BentoMLException, InvalidArgument, NotFound
from bentoml.validators import ContentType, DataframeSchema, DType, Shape
from PIL import Image as Picture
from pydantic import BaseModel, ConfigDict, Field, field_validator


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Person(BaseModel):
    """Somebody."""

    model_config = ConfigDict(extra="forbid")
    age: int = Field(ge=0, le=99, description="in years")
    name: str = Field(default="nobody", max_length=10)
    born: datetime.date | None = None

    @field_validator("name")
    @classmethod
    def no_bob(cls, value):
        if value == "bob":
            raise ValueError("not bob")
        return value


class Answer(BaseModel):
    who: Person
    score: float
    tags: list[str] = []


class Own(bentoml.IODescriptor):
    left: int
    right: int = 5
    grid: Annotated[np.ndarray, DType("int64")] = Field(default=[1])


class Given(BaseModel):
    left: int
    right: int = 2


class Forbidden(BentoMLException):
    error_code = HTTPStatus.FORBIDDEN


class Teapot(BentoMLException):
    error_code = HTTPStatus.IM_A_TEAPOT


@bentoml.service(name="shapes", traffic={"timeout": 2}, labels={"a": "b"})
class Probe:
    """Every shape of argument and answer."""

    def __init__(self):
        self.events = ["init"]

    @bentoml.on_startup
    def begin(self):
        self.events.append("startup")

    @bentoml.on_startup
    async def begin_async(self):
        self.events.append("startup async")

    @bentoml.on_deployment
    @staticmethod
    def deployed():
        os.environ["DEPLOYED"] = "yes"

    @bentoml.api
    def life(self) -> list[str]:
        return [*self.events, os.environ.get("DEPLOYED", "no")]

    @bentoml.api
    def one(self, person: Person) -> Answer:
        """Says who."""
        return Answer(who=person, score=0.5)

    @bentoml.api
    async def one_async(self, person: Person, times: int = 1) -> Answer:
        return Answer(who=person, score=0.25 * times, tags=["é", "日本"])

    @bentoml.api
    def many(self, people: Annotated[list[Person], Field(min_length=1, max_length=3)]) -> list[Answer]:
        return [Answer(who=person, score=1) for person in people]

    @bentoml.api
    def root(self, person: Person, /) -> Person:
        return person

    @bentoml.api
    def root_list(self, numbers: list[int], /) -> int:
        return sum(numbers)

    @bentoml.api
    def root_dict(self, given: dict[str, float], /) -> dict[str, float]:
        return {key: value * 2 for key, value in given.items()}

    @bentoml.api
    def root_text(self, text: str, /) -> str:
        return text.upper()

    @bentoml.api
    def root_default(self, number: int = 7, /) -> int:
        return number

    @bentoml.api
    def scalars(self, a: int, b: float = 1.5, c: bool = False, d: str = "x", e: int | None = None) -> dict[str, Any]:
        return {"a": a, "b": b, "c": c, "d": d, "e": e}

    @bentoml.api
    def kinds(self, when: datetime.datetime, colour: Colour, size: Literal["s", "m"] = "s") -> list:
        return [when, colour, size]

    @bentoml.api
    def colour(self, colour: Colour) -> Colour:
        return colour

    @bentoml.api
    def when(self, when: datetime.datetime) -> datetime.datetime:
        return when

    @bentoml.api
    def number(self, x: float) -> float:
        return x

    @bentoml.api
    def raw(self, size: int) -> bytes:
        return b"\x00" * size

    @bentoml.api
    def nothing(self, x: int = 1) -> None:
        return None

    @bentoml.api
    def untyped(self, x, y=2):
        return {"x": x, "y": y}

    @bentoml.api
    def defaults(self, x: int = Field(default=3, ge=1), y: list = Field(default_factory=list)) -> list:  # noqa: B008
        return [x, y]

    @bentoml.api
    def more(self, x: int, **rest: int) -> dict:
        return {"x": x, **rest}

    @bentoml.api
    def unions(self, x: int | str, y: list[int] | None = None) -> dict:
        return {"x": x, "y": y}

    @bentoml.api
    def array(self, x: Annotated[np.ndarray, DType("float64"), Shape((2, 2))]) -> np.ndarray:
        return x @ x

    @bentoml.api
    def array_any(self, x: np.ndarray) -> np.ndarray:
        return x

    @bentoml.api
    def array_root(self, x: Annotated[np.ndarray, DType("float32")], /) -> Annotated[np.ndarray, DType("float32")]:
        return x / np.float32(3)

    @bentoml.api
    def array_ints(self, x: Annotated[np.ndarray, DType("int32")]) -> np.ndarray:
        return x.T

    @bentoml.api
    def array_in(self, x: list[np.ndarray]) -> dict[str, np.ndarray]:
        return {str(number): each for number, each in enumerate(x)}

    @bentoml.api
    def array_nan(self, n: int) -> np.ndarray:
        return np.array([np.nan, np.inf, 1.0])

    @bentoml.api
    def nan_list(self, n: int) -> list[float]:
        return [float("nan")] * n

    @bentoml.api
    def nan_any(self, n: int):
        return {"a": float("nan"), "b": float("inf")}

    @bentoml.api
    def nan_arrays(self, n: int) -> dict[str, np.ndarray]:
        return {"a": np.array([np.nan, 1.0])}

    @bentoml.api
    def nan_model(self, n: int) -> Answer:
        return Answer(who=Person(age=1), score=float("nan"))

    @bentoml.api
    def nan_models(self, n: int) -> list[Answer]:
        return [Answer(who=Person(age=1), score=float("nan"))]

    @bentoml.api
    def frame(self, x: pd.DataFrame) -> pd.DataFrame:
        x["total"] = x.sum(axis=1)
        return x

    @bentoml.api
    def frame_columns(
        self, x: Annotated[pd.DataFrame, DataframeSchema(orient="columns", columns=("a", "b"))], /
    ) -> Annotated[pd.DataFrame, DataframeSchema(orient="columns")]:
        return x * 2

    @bentoml.api
    def file(self, f: Path, note: str = "none", n: int = 1) -> dict:
        return {"text": f.read_text(), "suffix": f.suffix, "note": note, "n": n}

    @bentoml.api
    def file_kind(self, f: Annotated[Path, ContentType("image/*")]) -> int:
        return len(f.read_bytes())

    @bentoml.api
    def files(self, f: list[Path]) -> list[str]:
        return [each.read_text() for each in f]

    @bentoml.api
    def file_root(self, f: Path, /) -> str:
        return f.read_text()

    @bentoml.api
    def file_out(self, text: str, ctx: bentoml.Context) -> Path:
        path = Path(ctx.temp_dir) / "out.csv"
        path.write_text(text)
        return path

    @bentoml.api
    def file_typed(self, text: str, context: bentoml.Context) -> Annotated[Path, ContentType("audio/mp3")]:
        path = Path(context.temp_dir) / "out.unknownkind"
        path.write_text(text)
        return path

    @bentoml.api
    def picture(self, picture: Picture.Image) -> list[int]:
        return list(picture.size)

    @bentoml.api
    def picture_out(self, size: int) -> Picture.Image:
        return Picture.new("RGB", (size, size))

    @bentoml.api
    async def stream(self, n: int, fail: int = -1) -> AsyncGenerator[str, None]:
        for number in range(n):
            if number == fail:
                raise InvalidArgument("at once")
            yield f"{number}\n"

    @bentoml.api
    def stream_models(self, n: int) -> Generator[Person, None, None]:
        for number in range(n):
            yield Person(age=number)

    @bentoml.api
    def stream_numbers(self, n: int) -> Generator[int, None, None]:
        yield from range(n)

    @bentoml.api
    async def stream_typed(self, n: int) -> AsyncGenerator[Annotated[bytes, ContentType("audio/wav")], None]:
        for number in range(n):
            yield bytes([number])

    @bentoml.api
    def seen(self, ctx: bentoml.Context) -> dict:
        request = ctx.request
        return {
            "x": request.headers.get("x-probe"),
            "query": dict(request.query_params),
            "path": request.url.path,
            "method": request.method,
            "cookies": request.cookies,
        }

    @bentoml.api
    def told(self, status: int, ctx: bentoml.Context) -> dict:
        ctx.response.status_code = status
        ctx.response.headers["X-Told"] = "yes"
        ctx.response.set_cookie("a", "b", max_age=3)
        return {"status": status}

    @bentoml.api
    async def told_stream(self, status: int, ctx: bentoml.Context) -> AsyncGenerator[str, None]:
        ctx.response.status_code = status
        ctx.response.headers["X-Told"] = "yes"
        yield "a"
        yield "b"

    @bentoml.api
    def retyped(self, ctx: bentoml.Context) -> str:
        ctx.response.headers["content-type"] = "text/csv"
        return "a,b"

    @bentoml.api
    def response(self, status: int):
        from starlette.responses import JSONResponse

        return JSONResponse({"own": True}, status_code=status, headers={"x-own": "1"})

    @bentoml.api(route="/v2/renamed")
    def renamed(self, x: int) -> int:
        return x

    @bentoml.api(input_spec=Own)
    def own(self, **given: Any) -> dict:
        return {"left": given["left"], "right": given["right"], "grid": np.asarray(given["grid"]).tolist()}

    @bentoml.api(input_spec=Given, output_spec=Person)
    def given(self, left: int, right: int):
        return Person(age=left + right)

    @bentoml.api
    def bad_argument(self, x: int) -> int:
        raise InvalidArgument(f"no {x}")

    @bentoml.api
    async def not_found(self) -> int:
        raise NotFound("nowhere")

    @bentoml.api
    def forbidden(self) -> int:
        raise Forbidden("secret reason")

    @bentoml.api
    def teapot(self) -> int:
        raise Teapot("short and stout")

    @bentoml.api
    def given_code(self, code: int) -> int:
        raise BentoMLException("as told", error_code=HTTPStatus(code))

    @bentoml.api
    def crash(self) -> int:
        raise RuntimeError("secret of the server")

    @bentoml.api
    async def crash_async(self) -> int:
        return {}["secret"]

    @bentoml.api
    def wrong(self) -> int:
        return "no number"

    @bentoml.api
    def wrong_model(self) -> Person:
        return Person(age=300)

    @bentoml.api
    async def slow(self, s: float) -> str:
        await asyncio.sleep(s)
        return "slept"

    @bentoml.api
    def slow_sync(self, s: float) -> str:
        time.sleep(s)
        return "slept"

    @bentoml.api
    def other(self, x: int) -> int:
        return self.renamed(x=x) if False else x + 1

    def not_served(self) -> int:
        return 1
