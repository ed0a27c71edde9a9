"""y = slope * x."""

from __future__ import annotations

import json
from pathlib import Path

import bentoml


@bentoml.service(image=bentoml.images.Image(python_version="3.12").requirements_file("requirements.txt"))
class Line:
    def __init__(self) -> None:
        self.slope = json.loads((Path(__file__).parent / "model" / "model.json").read_text("utf-8"))["slope"]

    @bentoml.api
    def predict(self, x: float) -> dict[str, float]:
        return {"y": self.slope * x}
