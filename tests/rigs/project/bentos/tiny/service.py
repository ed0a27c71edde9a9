"""y = slope * x, and a route that takes its time."""

from __future__ import annotations

import json
import time
from pathlib import Path

import bentoml


@bentoml.service(image=bentoml.images.Image(python_version="3.11").requirements_file("requirements.txt"))
class Tiny:
    def __init__(self) -> None:
        self.slope = json.loads((Path(__file__).parent / "model" / "model.json").read_text("utf-8"))["slope"]

    @bentoml.api
    def predict(self, x: float) -> dict[str, float]:
        return {"y": self.slope * x}

    @bentoml.api
    def slow(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    @bentoml.api
    def broken(self) -> float:
        raise RuntimeError("this route always fails")
