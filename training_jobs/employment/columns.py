"""The columns of the census that this job reads: what each is called, its range, and what its codes mean.

INPUTS go into the model, and the endpoint asks for them. CHECKED do not: they show how the model does for each group.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ID, YEAR, TARGET = "id", "year", "employed"


@dataclass(frozen=True)
class Column:
    """Whole numbers from `low` to `high`; `codes` names the values of a category."""

    title: str
    low: int
    high: int
    codes: dict[int, str] = field(default_factory=dict)


NO_YES = {1: "yes", 2: "no"}
NOT_ASKED = "not asked"

INPUTS = {
    "AGEP": Column("age", 0, 99),
    "SCHL": Column("schooling", 0, 24, {
        0: "under 3 years old", 1: "none", 2: "nursery school", 3: "kindergarten",
        **{grade + 3: f"grade {grade}" for grade in range(1, 12)},
        15: "grade 12, no diploma", 16: "high school diploma", 17: "GED", 18: "college, under a year",
        19: "college, no degree", 20: "associate's degree", 21: "bachelor's degree", 22: "master's degree",
        23: "professional degree", 24: "doctorate",
    }),
    "MAR": Column("marital status", 1, 5, {
        1: "married", 2: "widowed", 3: "divorced", 4: "separated", 5: "never married",
    }),
    "RELP": Column("place in the household", 0, 17, {
        0: "householder", 1: "spouse", 2: "son or daughter", 3: "adopted child", 4: "stepchild", 5: "brother or sister",
        6: "parent", 7: "grandchild", 8: "parent-in-law", 9: "child-in-law", 10: "other relative", 11: "roomer",
        12: "housemate", 13: "unmarried partner", 14: "foster child", 15: "other", 16: "in an institution",
        17: "in other group quarters",
    }),
    "DIS": Column("disability", 1, 2, NO_YES),
    "ESP": Column("work of the parents", 0, 8, {
        0: NOT_ASKED, 1: "both in the labour force", 2: "only the father", 3: "only the mother", 4: "neither",
        5: "lives with the father, who works", 6: "lives with the father, who does not work",
        7: "lives with the mother, who works", 8: "lives with the mother, who does not work",
    }),
    "MIG": Column("home a year ago", 0, 3, {0: "under a year old", 1: "the same", 2: "abroad", 3: "another one"}),
    "MIL": Column("military service", 0, 4, {
        0: "under 17", 1: "on active duty", 2: "in the past", 3: "training only", 4: "never",
    }),
    "DEAR": Column("hearing difficulty", 1, 2, NO_YES),
    "DEYE": Column("seeing difficulty", 1, 2, NO_YES),
    "DREM": Column("difficulty remembering", 0, 2, {0: "under 5 years old", **NO_YES}),
}  # fmt: skip

CHECKED = {
    "SEX": Column("sex", 1, 2, {1: "male", 2: "female"}),
    "RAC1P": Column("race", 1, 9, {
        1: "White", 2: "Black", 3: "American Indian", 4: "Alaska Native", 5: "American Indian or Alaska Native, tribe not named",
        6: "Asian", 7: "Native Hawaiian or Pacific Islander", 8: "another race", 9: "two or more races",
    }),
}  # fmt: skip

KEYS = {ID: Column("record", 0, 2**53), YEAR: Column("survey year", 2000, 2100)}
LABEL = Column("employed", 0, 1, {0: "not employed", 1: "employed"})
