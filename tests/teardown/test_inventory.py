"""What AWS is asked when a stack is gone: by tags, and by the names of what its runs and deployments have made."""

from __future__ import annotations

import json

import pytest

import ekiben as ek
from ekiben.aws.inventory import found
from ekiben.aws.jobs import scope_of
from ekiben.testing import EmulatedAws

CONFIG = {"aws:region": "us-east-1"}
OURS = {"ekiben:platform": "shop", "ekiben:stack": "dev", "ekiben:component": "lake"}
OTHERS = {**OURS, "ekiben:stack": "prod"}
PAIRS = [{"Key": key, "Value": value} for key, value in OURS.items()]
SMALL = [{"key": key, "value": value} for key, value in OURS.items()]
TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": "sts:AssumeRole",
                "Principal": {"Service": ["lambda.amazonaws.com", "sagemaker.amazonaws.com"]},
            }
        ],
    }
)


def names(platform: ek.Platform | None = None) -> list[str]:
    return sorted(name for name, _, _ in found("shop", "dev", CONFIG, platform))


def test_what_has_the_stacks_tags_is_found(emulated_aws: EmulatedAws) -> None:
    aws = emulated_aws
    for bucket, tags in {"ours": OURS, "theirs": OTHERS}.items():
        aws.s3.create_bucket(Bucket=bucket)
        pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
        aws.s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": pairs})
        aws.iam.create_role(RoleName=f"{bucket}-role", AssumeRolePolicyDocument=TRUST, Tags=pairs)
    aws.iam.create_role(RoleName="nobodys", AssumeRolePolicyDocument=TRUST)
    aws.logs.create_log_group(logGroupName="ours-log", tags=OURS)
    aws.sqs.create_queue(QueueName="ours-queue", tags=OURS)
    aws.sns.create_topic(Name="ours-topic", Tags=PAIRS)
    aws.events.create_event_bus(Name="ours-bus", Tags=PAIRS)
    aws.events.put_rule(Name="ours-rule", EventPattern='{"source": ["x"]}', Tags=PAIRS)
    aws.ecr.create_repository(repositoryName="ours-repository", tags=PAIRS)
    aws.scheduler.create_schedule_group(Name="ours-group", Tags=PAIRS)
    aws.codebuild.create_project(
        name="ours-project", source={"type": "S3", "location": "ours/x.zip"}, artifacts={"type": "NO_ARTIFACTS"},
        environment={"type": "LINUX_CONTAINER", "image": "i", "computeType": "BUILD_GENERAL1_SMALL"},
        serviceRole="arn:aws:iam::123456789012:role/ours-role", tags=SMALL,
    )  # fmt: skip
    assert names() == sorted(
        ["ours", "ours-role", "ours-log", "ours-queue", "ours-topic", "ours-bus", "ours-rule", "ours-repository",
         "ours-group", "ours-project"]
    )  # fmt: skip
    arns = {name: arn for name, arn, _ in found("shop", "dev", CONFIG)}
    assert arns["ours-role"] == "arn:aws:iam::123456789012:role/ours-role"
    assert arns["ours"] == "arn:aws:s3:::ours"


def test_a_key_whose_deletion_is_scheduled_is_not_there_any_more(emulated_aws: EmulatedAws) -> None:
    kms = emulated_aws.kms
    tags = [{"TagKey": key, "TagValue": value} for key, value in OURS.items()]
    key = kms.create_key(Tags=tags)["KeyMetadata"]["KeyId"]
    assert names() == [key]
    kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
    assert names() == []


def part(name: str, kind: str, **facts: object) -> ek.Part:
    return ek.Part(name=name, kind=kind, provider="aws", ref="", facts={"region": "us-east-1", **facts})


PLATFORM = ek.Platform(
    project="shop",
    stack="dev",
    parts={
        one.name: one
        for one in (
            part("models", "registry", uri="s3://b/registry/models", model_groups="models-1a2b"),
            part("tiny", "training", storage_uri="s3://b", security_group_ids=["given"]),
            part("api", "endpoint", function="api-3c4d", log_group="/aws/lambda/api-3c4d"),
            part("gpu", "endpoint", endpoint="gpu-5e6f", security_group_ids=["given"]),
        )
    },
)


def test_what_ecs_only_remembers_is_not_there_any_more(emulated_aws: EmulatedAws) -> None:
    ecs = emulated_aws.ecs
    for name in ("ours-cluster", "gone-cluster"):
        ecs.create_cluster(clusterName=name, tags=SMALL)
    assert names() == ["gone-cluster", "ours-cluster"]
    ecs.delete_cluster(cluster="gone-cluster")
    assert names() == ["ours-cluster"]


def test_what_runs_and_deployments_made_is_found_by_its_name(emulated_aws: EmulatedAws) -> None:
    aws = emulated_aws
    assert names(PLATFORM) == []
    aws.iam.create_role(RoleName="r", AssumeRolePolicyDocument=TRUST)
    for group in ("/aws/lambda/api-3c4d", "/aws/lambda/api-3c4d-other", "/aws/sagemaker/Endpoints/gpu-5e6f"):
        aws.logs.create_log_group(logGroupName=group)
    for group in ("models-1a2b-tiny", "models-1a2bcd", "models"):
        aws.sagemaker.create_model_package_group(ModelPackageGroupName=group)
    for model in ("gpu-5e6f-r1", "gpu-5e6fff"):
        aws.sagemaker.create_model(
            ModelName=model, PrimaryContainer={"Image": "1.dkr.ecr.us-east-1.amazonaws.com/x"},
            ExecutionRoleArn="arn:aws:iam::123456789012:role/r",
        )  # fmt: skip
    subnet = aws.ec2.describe_subnets()["Subnets"][0]
    group = aws.ec2.create_security_group(GroupName="given", Description="x", VpcId=subnet["VpcId"])["GroupId"]
    scope = scope_of("shop", "dev", "tiny", "s3://b")
    said = {"ours": f"SageMaker: tiny-1-{scope}", "theirs": "a machine that somebody else has"}
    interfaces = {
        whose: aws.ec2.create_network_interface(SubnetId=subnet["SubnetId"], Groups=[group], Description=text)[
            "NetworkInterface"
        ]["NetworkInterfaceId"]
        for whose, text in said.items()
    }
    parts = {
        name: ek.Part.from_dict(json.loads(one.to_json().replace('"given"', f'"{group}"')))
        for name, one in PLATFORM.parts.items()
    }
    platform = ek.Platform(project="shop", stack="dev", parts=parts)
    assert names(platform) == sorted(
        [
            "/aws/lambda/api-3c4d",
            "/aws/sagemaker/Endpoints/gpu-5e6f",
            "models-1a2b-tiny",
            "gpu-5e6f-r1",
            interfaces["ours"],
        ]
    )
    assert names() == []


def test_a_region_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ek.SpecError, match="aws:region"):
        list(found("shop", "dev", {}))
