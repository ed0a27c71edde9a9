"""Is this person employed? A plain BentoML service: `bentoml serve` runs it as it stands.

The model (model.ubj and model.json, as training_jobs/employment writes them) is in the folder `model` beside this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import bentoml
from bentoml.images import Image
from pydantic import BaseModel, ConfigDict, Field
from scoring import Model

BATCH = 1000


class Person(BaseModel):
    """One person, in the census's own codes. Whole numbers only."""

    model_config = ConfigDict(extra="forbid", strict=True)

    AGEP: int = Field(ge=0, le=99, description="Age in years")
    SCHL: int = Field(
        ge=0,
        le=24,
        description="Schooling: 1 none, 16 high school, 21 bachelor's, 24 doctorate",
    )
    MAR: int = Field(ge=1, le=5, description="1 married, 2 widowed, 3 divorced, 4 separated, 5 never married")
    RELP: int = Field(
        ge=0,
        le=17,
        description="Household: 0 householder, 1 spouse, 2 child, 17 group quarters",
    )
    DIS: int = Field(ge=1, le=2, description="Disability: 1 yes, 2 no")
    ESP: int = Field(
        ge=0,
        le=8,
        description="Work of the parents: 0 not asked, 1 both in the labour force",
    )
    MIG: int = Field(ge=0, le=3, description="Home a year ago: 1 the same, 2 abroad, 3 another one; 0 under a year old")
    MIL: int = Field(ge=0, le=4, description="Military service: 1 active, 2 in the past, 4 never; 0 under 17")
    DEAR: int = Field(ge=1, le=2, description="Hearing difficulty: 1 yes, 2 no")
    DEYE: int = Field(ge=1, le=2, description="Seeing difficulty: 1 yes, 2 no")
    DREM: int = Field(ge=0, le=2, description="Difficulty remembering: 1 yes, 2 no; 0 under 5 years old")


class Reason(BaseModel):
    """A column that moved the answer. `contribution` is in log-odds, against the average person."""

    column: str
    value: int
    contribution: float
    text: str


class Answer(BaseModel):
    probability: float = Field(ge=0, le=1)
    decision: Literal["employed", "not employed"]
    reasons: list[Reason]


@bentoml.service(
    name="employment",
    image=Image(python_version="3.11", lock_python_packages=False).requirements_file("requirements.txt"),
)
class Employment:
    """Probability and decision, with the three columns that mattered most."""

    def __init__(self) -> None:
        self.model = Model(Path(__file__).parent / "model")

    @bentoml.api
    def predict(self, person: Person) -> Answer:
        """One person."""
        return Answer(**self.model.answer([person.model_dump()])[0])

    @bentoml.api
    def predict_batch(self, people: Annotated[list[Person], Field(min_length=1, max_length=BATCH)]) -> list[Answer]:
        """1 to 1,000 people, answered in their order."""
        return [Answer(**answer) for answer in self.model.answer([person.model_dump() for person in people])]
