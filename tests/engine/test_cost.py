"""What a preview says that it will cost."""

from __future__ import annotations

import json

import pytest

from ekiben.cli import plan
from ekiben.cost import PRICES
from ekiben.engine import stacks
from ekiben.engine.progress import Progress

from .conftest import Project

LOCAL = """
lake = cloud.Storage("lake")
job = cloud.Training("job", ek.TrainingSpec(source="training_jobs/job"), storage=lake)
"""
PRICED = """
from ekiben.cli import plan
from ekiben.cost import Cost
from ekiben.components import Component

cloud.Storage.cost = lambda self: Cost(usd_per_month=0.25, usd_per_1000_requests=0.0, worst_usd_per_month=20.0,
                                       usd_per_training_hour=0.0, priced_on="2026-11-01", why="10 GB")
cloud.Training.cost = Component.cost
"""


@pytest.mark.engine
def test_d17_a_preview_says_what_each_component_costs(project: Project) -> None:
    project.program(LOCAL + "ek.export(lake, job)\n")
    stacks.up(project.root, "dev", progress=Progress(quiet=True))
    planned = stacks.preview(project.root, "dev", progress=Progress(quiet=True))
    assert set(planned.costs) == {"job", "lake"}
    for cost in planned.costs.values():
        assert [getattr(cost, price) for price in PRICES] == [0.0] * len(PRICES)
        assert "machine" in cost.why, "nothing is billed, and the reason is given"
    assert plan.unbilled(planned.costs).startswith("It runs on a machine")

    project.program(PRICED + LOCAL + "ek.export(lake, job)\n")
    told = json.loads(project.ekiben("preview", "--json").stdout)
    assert told["changes"] == {}, "a new price list changes no resource"
    assert told["costs"]["lake"]["usd_per_month"] == 0.25
    assert told["costs"]["job"] == {**dict.fromkeys(PRICES), "priced_on": "", "why": "local gives no prices"}, (
        "unknown is not 0"
    )
    table = project.ekiben("preview", "--markdown").stdout.splitlines()
    assert table[0] == "<!-- ekiben preview of dev -->"
    assert table[-1] == "| sum | 0.25 + 1 unknown |  |  | 20.00 + 1 unknown |  |  |"
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table if line.startswith("| job")]
    assert rows == [["job", "unknown", "unknown", "unknown", "unknown", "", "local gives no prices"]]
    stacks.destroy(project.root, "dev", progress=Progress(quiet=True))


@pytest.mark.engine
def test_a_preview_is_one_kind_of_answer(project: Project) -> None:
    project.program(LOCAL)
    said = project.ekiben("preview", "--json", "--markdown")
    assert (said.returncode, said.stdout) == (2, "")
