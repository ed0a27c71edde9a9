"""Policies: those that a program with everything produces have nothing that a linter finds, and the linter finds what is wrong."""

from __future__ import annotations

import json
import runpy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pulumi
import pytest

import ekiben as ek
from ekiben.aws import components as cloud
from ekiben.aws.components import policies as policies_of

from .policies import Policy, bounds, linted, policies, wildcards
from .program import run

pytestmark = pytest.mark.filterwarnings("ignore:.* has been deprecated in favor of:DeprecationWarning")

KEY = "arn:aws:kms:eu-west-1:123456789012:key/k"
ROOT = Path(__file__).parents[2]
TINY = Path(__file__).parents[1] / "rigs" / "project" / "bentos" / "tiny"
MAIL = ("ops@example.org",)
HERE = "eu-west-1:123456789012"


def identity(*statements: Mapping[str, Any]) -> list[Policy]:
    return [
        Policy(
            "aws:iam/rolePolicy:RolePolicy", "p", {"Version": "2012-10-17", "Statement": list(statements)}, "identity"
        )
    ]


def trusted(statement: Mapping[str, Any]) -> list[Policy]:
    whole = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", **statement}]}
    return [Policy("aws:iam/role:Role", "r", whole, "trust")]


def queue(statement: Mapping[str, Any]) -> list[Policy]:
    whole = {"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": f"arn:aws:sqs:{HERE}:dead", **statement}
    return [Policy("aws:sqs/queuePolicy:QueuePolicy", "q", {"Version": "2012-10-17", "Statement": whole}, "resource")]


def allow(action: str, resource: Any, **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": [action], "Resource": resource, **more}


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (identity(allow("s3:GetObjekt", "arn:aws:s3:::lake-1/*")), "getobjekt"),
        (identity(allow("s3:GetObject", f"arn:aws:sqs:{HERE}:dead")), "requires a resource"),
        (identity({**allow("s3:GetObject", "arn:aws:s3:::lake-1/*"), "Principal": "*"}), "Principal"),
        (trusted({"Principal": {"Service": "lambda.amazonaws.com"}, "Resource": "*"}), "Resource"),
    ],
)
def test_the_linter_finds_what_iam_would_not_take(found: list[Policy], word: str) -> None:
    assert word in " ".join(linted(found))


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (identity(allow("s3:*", "arn:aws:s3:::lake-1/*")), "s3:* is not one action"),
        (identity(allow("s3:Get*", "arn:aws:s3:::lake-1/*")), "s3:Get* is not one action"),
        (identity(allow("s3:GetObject", "*")), "s3:GetObject on everything"),
        (identity(allow("s3:GetObject", "arn:aws:s3:::*")), "is not ours alone"),
        (identity(allow("s3:GetObject", "arn:aws:s3:::lake*/*")), "is not ours alone"),
        (identity(allow("sqs:SendMessage", "arn:aws:sqs:*:123456789012:dead")), "is not ours alone"),
        (identity(allow("sagemaker:StopTrainingJob", f"arn:aws:sagemaker:{HERE}:training-job/*")), "is not ours alone"),
        (identity(allow("sagemaker:StopTrainingJob", f"arn:aws:sagemaker:{HERE}:*/job")), "is not ours alone"),
        (identity(allow("ecr:GetAuthorizationToken", f"arn:aws:ecr:{HERE}:repository/r")), "takes no resource"),
        (identity({"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"}), "says what is not meant"),
    ],
)
def test_what_is_too_wide_is_found(found: list[Policy], word: str) -> None:
    assert word in " ".join(wildcards(found))


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (identity(allow("iam:PassRole", "arn:aws:iam::123456789012:role/r")), "passed to any service"),
        (trusted({"Principal": {"Service": "lambda.amazonaws.com"}}), "is let in for everybody"),
        (trusted({"Principal": {"AWS": "arn:aws:iam::1:root"}}), "somebody else than a service"),
        (queue({"Principal": "*"}), "everybody is let in"),
        (queue({"Principal": {"Service": "events.amazonaws.com"}}), "is let in for everybody"),
    ],
)
def test_who_is_let_in_unbound_is_found(found: list[Policy], word: str) -> None:
    assert word in " ".join(bounds(found))


def test_what_is_well_is_let_through() -> None:
    to_lambda = {"StringEquals": {"iam:PassedToService": "lambda.amazonaws.com"}}
    rule = {"ArnEquals": {"aws:SourceArn": f"arn:aws:events:{HERE}:rule/r"}}
    account = {"StringEquals": {"aws:SourceAccount": "123456789012"}}
    found = [
        *identity(
            allow("s3:GetObject", ["arn:aws:s3:::lake-1/code/*"]),
            allow("sagemaker:StopTrainingJob", f"arn:aws:sagemaker:{HERE}:training-job/*-1a2b3c4d"),
            allow("iam:PassRole", "arn:aws:iam::123456789012:role/r", Condition=to_lambda),
            allow("ecr:GetAuthorizationToken", "*"),
        ),
        *trusted({"Principal": {"Service": "lambda.amazonaws.com"}, "Condition": account}),
        *queue({"Principal": {"Service": "events.amazonaws.com"}, "Condition": rule}),
    ]
    assert [*linted(found), *wildcards(found), *bounds(found)] == []
    assert json.dumps(found[0].document)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders that components are made from."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("job/train.py", "handler/main.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("def handler(event, runtime): ...\n")
    shutil.copytree(TINY, tmp_path / "tiny")
    return tmp_path


def everything() -> list[Any]:
    """A program that asks for all there is."""
    lake = cloud.Storage("lake", ek.StorageSpec(kms_key=KEY, expire_days={"tmp/": 7}))
    kept = cloud.Storage("kept", ek.StorageSpec(versioning="off", retain=True))
    models = cloud.Registry("models", ek.RegistrySpec(mirror="required"), storage=lake)
    resources = ek.Resources(gpus=1, gpu="A10G", vcpu=4, memory_mib=8192)
    spec = ek.TrainingSpec(
        source="job", inputs={"rows": "lake/rows/", "more": "kept/more/"}, spot=True, resources=resources
    )
    fit = cloud.Training("income", spec, storage=lake, inputs_from=[kept])
    asked = {"model": "income@champion", "bento": "tiny"}
    api = cloud.Endpoint("api", ek.EndpointSpec(**asked), registry=models)
    fast, *faster = (
        cloud.Endpoint(name, ek.EndpointSpec(**asked, resources=resources, min_instances=1), registry=models)
        for name in ("fast", "faster", "fastest")
    )
    slow = cloud.Endpoint(
        "slow", ek.EndpointSpec(**asked, timeout_s=1200, min_instances=1, auth="none"), registry=models
    )
    limit = cloud.Budget("limit", ek.BudgetSpec(monthly_usd=100, notify=MAIL))
    parts = [lake, kept, models, fit, api, fast]
    on = (
        ek.NewData("lake"), ek.Schedule("0 3 * * *"), ek.On("TrainingEnded"), ek.On("ModelDecided"), ek.On("Mine"), ek.Http(),
    )  # fmt: skip
    other = cloud.Function("other-actor", ek.FunctionSpec(source="handler"), uses=[models])
    actor = cloud.Function("actor", ek.FunctionSpec(source="handler", on=on), uses=[*parts, *faster, slow, other])
    watch = cloud.Monitor("watch", ek.MonitorSpec(notify=MAIL), watches=[fit, api, fast, actor])
    ek.export(*parts, *faster, slow, other, actor, watch, limit)
    return parts


@pytest.mark.parametrize("private", [False, True])
def test_a_program_with_everything_has_nothing_that_a_linter_finds(project: Path, private: bool) -> None:
    network = {"subnet_ids": ["subnet-1"], "security_group_ids": ["sg-1"]}
    pulumi.runtime.set_all_config({"ekiben:network": json.dumps(network)} if private else {})
    try:
        found = policies(run(everything, project))
    finally:
        pulumi.runtime.set_all_config({})
    assert {one.kind for one in found} == {"identity", "trust", "resource"}
    # What has no room in the role is in a policy beside it.
    sizes = {f"{one}": policies_of.size(one.document["Statement"]) for one in found}
    assert sizes["Policy actor-may-2"] <= policies_of.MANAGED_CHARS
    assert sizes["RolePolicy actor-may"] <= policies_of.INLINE_CHARS
    assert "\n".join([*linted(found), *wildcards(found), *bounds(found)]) == ""


def test_the_example_s_own_program_has_nothing_that_a_linter_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(ROOT)
    pulumi.runtime.set_all_config({"ekiben:provider": "aws"})

    def program() -> list[Any]:
        runpy.run_path(str(ROOT / "infra" / "__main__.py"))
        return []

    try:
        found = policies(run(program, ROOT))
    finally:
        pulumi.runtime.set_all_config({})
    assert len(found) > 15
    assert "\n".join([*linted(found), *wildcards(found), *bounds(found)]) == ""
