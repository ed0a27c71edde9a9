"""Training of AWS under a recording monitor: what its jobs run as may do that and no more, and the facts are the run face's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pulumi
import pytest

import ekiben as ek
from ekiben.aws.components import Storage, Training
from ekiben.aws.components.network import network
from ekiben.aws.components.training import image_statements, job_statements, submit_statements, volume_statements
from ekiben.aws.facts import TrainingFacts, facts_of
from ekiben.aws.jobs import job_scope
from ekiben.errors import SpecError, Unsupported
from ekiben.packing import archive

from .program import ACCOUNT, Recorded, run, statements

KEY = "arn:aws:kms:eu-west-1:123456789012:key/k"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "train.py").write_text("print('x')\n")
    return tmp_path


@pytest.fixture
def config() -> Iterator[dict[str, str]]:
    """The stack's config."""
    told: dict[str, str] = {}
    yield told
    pulumi.runtime.set_all_config({})


def made(project: Path, **spec: Any) -> Recorded:
    def program() -> list[Any]:
        lake, other = Storage("lake", ek.StorageSpec(kms_key=spec.pop("kms_key", ""))), Storage("other")
        asked = {"source": "job", "inputs": {"census": "lake/people/", "more_rows": "other/rows/"}, **spec}
        return [Training("income", ek.TrainingSpec(**asked), storage=lake, inputs_from=[other])]

    return run(program, project)


def allowed(recorded: Recorded) -> list[Mapping[str, Any]]:
    """What the role's policy says."""
    return list(statements(recorded.one("RolePolicy")))


def test_a_job_s_role_reads_its_inputs_and_its_code_and_writes_its_runs(project: Path) -> None:
    recorded = made(project)
    found = [one for one in allowed(recorded) if "s3:GetObject" in one["Action"]]
    reads = {resource for one in found if "s3:PutObject" not in one["Action"] for resource in one["Resource"]}
    writes = {resource for one in found if "s3:PutObject" in one["Action"] for resource in one["Resource"]}
    assert reads == {
        f"arn:aws:s3:::{one}" for one in ("lake-0123abc/code/*", "lake-0123abc/people/*", "other-0123abc/rows/*")
    }
    assert writes == {"arn:aws:s3:::lake-0123abc/runs/income/*"}
    (role,) = recorded.all("Role")
    (trusted,) = json.loads(role.inputs["assumeRolePolicy"])["Statement"]
    assert trusted["Principal"] == {"Service": "sagemaker.amazonaws.com"}
    assert not [one for one in recorded.made if one.type.startswith(("aws:ecr", "aws:codebuild"))]


def test_the_facts_are_what_the_run_face_reads(project: Path) -> None:
    recorded = made(project, kms_key=KEY, resources=ek.Resources(vcpu=4, memory_mib=8192), retries=1)
    part = recorded.parts["income"]
    facts = facts_of(part, TrainingFacts)
    assert facts.storage_uri == "s3://lake-0123abc"
    assert facts.input_uris == {"census": "s3://lake-0123abc/people/", "more_rows": "s3://other-0123abc/rows/"}
    assert facts.instance_type == "ml.m5.xlarge"
    assert facts.image_uri.startswith("763104351884.dkr.ecr.eu-west-1.amazonaws.com/pytorch-training:")
    assert (facts.kms_key, facts.network_isolation, facts.subnet_ids) == (KEY, False, [])
    assert (facts.spec["retries"], facts.spec["timeout_s"]) == (1, 3600)
    held = {one.inputs["key"]: one for one in recorded.all("BucketObjectv2")}
    for uri, sha256 in ((facts.code_uri, facts.code_sha256), (facts.library_uri, facts.library_sha256)):
        assert uri == f"s3://lake-0123abc/code/{sha256}.tar"
        path = Path(held[f"code/{sha256}.tar"].inputs["source"].path)
        assert archive.sha256(path) == sha256
        assert held[f"code/{sha256}.tar"].retained
    left = recorded.one("ekiben:aws:Jobs").inputs
    assert left["scope"] == job_scope(ek.Platform(project="small", stack="dev"), part, facts)
    assert left["tags"]["ekiben:component"] == "income"


def test_everything_is_under_the_training_and_named_after_it(project: Path) -> None:
    for one in made(project).made:
        if "income" in one.name and not one.type.startswith("ekiben:aws:Training"):
            assert one.parent.endswith("ekiben:aws:Training::income"), one
            whose = "lake" if "BucketObject" in one.type else "income"
            assert one.inputs.get("tags", {}).get("ekiben:component", whose) == whose


def test_a_gpu_that_there_is_not_fails_the_preview(project: Path) -> None:
    def program() -> list[Any]:
        lake = Storage("lake")
        Training("one", ek.TrainingSpec(source="job", resources=ek.Resources(gpus=1, gpu="Z9")), storage=lake)
        Training(
            "two", ek.TrainingSpec(source="job", resources=ek.Resources(vcpu=190, memory_mib=4_000_000)), storage=lake
        )
        with pytest.raises(Unsupported, match=r"(?s)'one'.*Z9.*'two'.*190 vCPUs"):
            ek.export(lake)
        return []

    recorded = run(program, project)
    assert not recorded.all("Role")


def test_a_network_of_the_stack_s_own_is_where_jobs_run(project: Path, config: dict[str, str]) -> None:
    told = {"subnet_ids": ["subnet-1"], "security_group_ids": ["sg-1"], "isolated": True}
    pulumi.runtime.set_all_config({"ekiben:network": json.dumps(told)})
    recorded = made(project)
    facts = facts_of(recorded.parts["income"], TrainingFacts)
    assert (facts.subnet_ids, facts.security_group_ids, facts.network_isolation) == (["subnet-1"], ["sg-1"], True)
    actions = {action for one in allowed(recorded) for action in one["Action"]}
    assert "ec2:CreateNetworkInterface" in actions


@pytest.mark.parametrize(
    "told", ['{"subnets": ["a"]}', '{"subnet_ids": "a"}', '["a"]', '{"subnet_ids": ["a"]}', '{"isolated": "yes"}', "{"]
)
def test_a_network_that_is_none_is_refused(config: dict[str, str], told: str) -> None:
    pulumi.runtime.set_all_config({"ekiben:network": told})
    with pytest.raises(SpecError, match="ekiben:network"):
        network()


def test_a_job_logs_into_its_own_streams_and_counts_in_its_own_namespace() -> None:
    writes, looks, counts = job_statements("arn:aws:logs:eu-west-1:1", "abcd1234")
    assert writes["Resource"] == [
        "arn:aws:logs:eu-west-1:1:log-group:/aws/sagemaker/TrainingJobs:log-stream:*-abcd1234/*"
    ]
    assert looks["Action"] == ["logs:DescribeLogStreams"]
    assert counts["Condition"] == {"StringEquals": {"cloudwatch:namespace": "/aws/sagemaker/TrainingJobs"}}


def test_one_image_can_be_pulled() -> None:
    pull, login = image_statements("aws-cn", "727897471807.dkr.ecr.cn-north-1.amazonaws.com.cn/pytorch-training:2-cpu")
    assert pull["Resource"] == ["arn:aws-cn:ecr:cn-north-1:727897471807:repository/pytorch-training"]
    assert login["Action"] == ["ecr:GetAuthorizationToken"]


def test_a_customer_s_key_is_granted_to_aws_s_own_disks_only() -> None:
    assert volume_statements("") == []
    grant, _ = volume_statements(KEY)
    assert (grant["Resource"], grant["Condition"]) == ([KEY], {"Bool": {"kms:GrantIsForAWSResource": "true"}})


def test_who_uses_a_training_submits_its_jobs_with_its_role_and_no_others() -> None:
    jobs, lists, hands_on, _ = submit_statements("aws", "eu-west-1", ACCOUNT, "abcd1234", "arn:role")
    assert jobs["Resource"] == [f"arn:aws:sagemaker:eu-west-1:{ACCOUNT}:training-job/*-abcd1234"]
    assert lists["Action"] == ["sagemaker:ListTrainingJobs"]
    assert hands_on["Resource"] == ["arn:role"]
    assert hands_on["Condition"] == {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}
