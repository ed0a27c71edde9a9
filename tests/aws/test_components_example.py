"""The example's own program, as it stands, on AWS: every part is what the run face reads."""

from __future__ import annotations

import dataclasses
import json
import runpy
from pathlib import Path
from typing import Any

import pulumi
import pytest

import ekiben as ek
from ekiben.aws.facts import EndpointFacts, FunctionFacts, RegistryFacts, StorageFacts, TrainingFacts, facts_of

from .program import Recorded, run

ROOT = Path(__file__).parents[2]
FACTS = {
    "lake": StorageFacts, "models": RegistryFacts, "employment": TrainingFacts, "employment-api": EndpointFacts,
    "retrain": FunctionFacts, "register": FunctionFacts, "release": FunctionFacts,
}  # fmt: skip


def program() -> list[Any]:
    pulumi.runtime.set_all_config({"ekiben:provider": "aws"})
    made = runpy.run_path(str(ROOT / "infra" / "__main__.py"))
    return [one for one in made.values() if isinstance(one, ek.components.Component)]


@pytest.fixture(scope="module")
def made() -> Recorded:
    return run(program, ROOT)


def test_the_parts_are_what_the_run_face_reads(made: Recorded) -> None:
    assert made.parts.keys() == FACTS.keys()
    for name, kind in FACTS.items():
        assert dataclasses.is_dataclass(facts_of(made.parts[name], kind))
    runtime = ek.connect(ek.Platform(project="small", stack="dev", parts=made.parts))
    assert runtime.training("employment").part.name == "employment"


def test_each_event_reaches_the_function_that_waits_for_it(made: Recorded) -> None:
    patterns = {one.name: json.loads(one.inputs["eventPattern"]) for one in made.all("EventRule")}
    assert {name: pattern["detail-type"] for name, pattern in patterns.items()} == {
        "retrain-on-0": ["Object Created"],
        "register-on-0": ["SageMaker Training Job State Change"],
        "release-on-0": ["ModelDecided"],
        "release-on-0-models": ["SageMaker Model Package State Change"],
    }


def test_a_function_may_pass_a_role_only_to_the_service_that_runs_it(made: Recorded) -> None:
    passed = [
        statement
        for one in made.all("RolePolicy")
        for statement in json.loads(one.inputs["policy"])["Statement"]
        if "iam:PassRole" in statement["Action"]
    ]
    assert passed
    for statement in passed:
        assert statement["Resource"] != ["*"]
        assert statement["Condition"]["StringEquals"]["iam:PassedToService"] == "sagemaker.amazonaws.com"


def test_no_role_s_policies_are_more_than_iam_takes(made: Recorded) -> None:
    """https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html, without blanks."""
    sizes: dict[str, int] = {}
    for one in made.all("RolePolicy"):
        text = json.dumps(json.loads(one.inputs["policy"]), separators=(",", ":"))
        sizes[one.inputs["role"]] = sizes.get(one.inputs["role"], 0) + len(text)
    assert max(sizes.values()) <= 10_240, sizes
