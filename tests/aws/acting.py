"""Acting as the role of a component, and what no role of ours may do."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

import ekiben as ek

__all__ = ["ACCOUNT", "FORBIDDEN", "Acting", "let_through", "mine"]

ACCOUNT = "123456789012"


class Acting:
    """A stack on an emulated AWS that asks IAM: its record, the clients of the account's owner, and sessions of its roles."""

    def __init__(self, platform: ek.Platform, region: str) -> None:
        self.platform, self.region = platform, region
        self._owner = {name.lower(): os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}

    def client(self, service: str) -> Any:
        return boto3.session.Session().client(service, region_name=self.region, **self._owner)

    def role(self, component: str) -> str:
        """The ARN of a component's role."""
        roles = self.client("iam").list_roles()["Roles"]
        (arn,) = [role["Arn"] for role in roles if role["RoleName"].rpartition("-")[0] == component]
        return str(arn)

    def be(self, component: str, env: pytest.MonkeyPatch) -> None:
        """From here on all that this process asks of AWS it asks as the role of a component."""
        given = self.client("sts").assume_role(RoleArn=self.role(component), RoleSessionName="test")["Credentials"]
        env.setenv("AWS_ACCESS_KEY_ID", given["AccessKeyId"])
        env.setenv("AWS_SECRET_ACCESS_KEY", given["SecretAccessKey"])
        env.setenv("AWS_SESSION_TOKEN", given["SessionToken"])

    def runtime(self, *names: str) -> ek.Runtime:
        return ek.connect(self.platform.subset(list(names)) if names else self.platform)

    def bucket(self, name: str) -> str:
        return str(self.platform.parts[name].facts["uri"]).removeprefix("s3://")


def mine(service: str) -> Any:
    """A client with the keys that the environment has now; boto3's own function keeps those that it found first."""
    return boto3.session.Session().client(service, region_name=os.environ["AWS_DEFAULT_REGION"])


FORBIDDEN: dict[str, Callable[[Acting], Any]] = {
    "read another bucket": lambda s: mine("s3").get_object(Bucket=s.bucket("other"), Key="secret.txt"),
    "list another bucket": lambda s: mine("s3").list_objects_v2(Bucket=s.bucket("other")),
    "write another bucket": lambda s: mine("s3").put_object(Bucket=s.bucket("other"), Key="a", Body=b"1"),
    "change a bucket's policy": lambda s: mine("s3").delete_bucket_policy(Bucket=s.bucket("lake")),
    "make its bucket public": lambda s: mine("s3").delete_public_access_block(Bucket=s.bucket("lake")),
    "delete its bucket": lambda s: mine("s3").delete_bucket(Bucket=s.bucket("lake")),
    "list all buckets": lambda s: mine("s3").list_buckets(),
    "make a role": lambda s: mine("iam").create_role(RoleName="mine", AssumeRolePolicyDocument="{}"),
    "give itself more": lambda s: mine("iam").put_role_policy(
        RoleName=s.role("agent").rpartition("/")[2], PolicyName="more", PolicyDocument="{}"
    ),
    "attach a policy": lambda s: mine("iam").attach_role_policy(
        RoleName=s.role("agent").rpartition("/")[2], PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess"
    ),
    "make a key": lambda s: mine("iam").create_access_key(UserName="somebody"),
    "take on another role": lambda s: mine("sts").assume_role(
        RoleArn=f"arn:aws:iam::{ACCOUNT}:role/admin", RoleSessionName="mine"
    ),
    "pass another role": lambda s: mine("sagemaker").create_training_job(
        TrainingJobName="mine-1",
        AlgorithmSpecification={"TrainingImage": "i", "TrainingInputMode": "File"},
        RoleArn=f"arn:aws:iam::{ACCOUNT}:role/admin",
        OutputDataConfig={"S3OutputPath": "s3://b/o"},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        StoppingCondition={"MaxRuntimeInSeconds": 60},
    ),
    "make a function": lambda s: mine("lambda").create_function(
        FunctionName="mine", Runtime="python3.11", Role=s.role("agent"), Handler="m.h", Code={"ZipFile": b"x"}
    ),
    "change a function that is no endpoint": lambda s: mine("lambda").update_function_configuration(
        FunctionName=s.platform.parts["agent"].facts["function"], Timeout=3
    ),
    "open a function to others": lambda s: mine("lambda").add_permission(
        FunctionName=s.platform.parts["agent"].facts["function"], StatementId="x", Action="lambda:InvokeFunction", Principal="*"
    ),
    "delete a function": lambda s: mine("lambda").delete_function(
        FunctionName=s.platform.parts["tiny-api"].facts["function"]
    ),
    "stop another's job": lambda s: mine("sagemaker").stop_training_job(TrainingJobName="theirs-1"),
    "read another stack's secret": lambda s: mine("secretsmanager").get_secret_value(SecretId="theirs"),
    "publish alarms": lambda s: mine("sns").publish(
        TopicArn=f"arn:aws:sns:{s.region}:{ACCOUNT}:watch", Message="x"
    ),
    "speak for S3 on the bus": lambda s: mine("events").put_events(
        Entries=[
            {"EventBusName": s.platform.parts["models"].facts["bus"], "Source": "aws.s3", "DetailType": "x", "Detail": "{}"}
        ]
    ),
    "put events on the default bus": lambda s: mine("events").put_events(
        Entries=[{"Source": "ekiben", "DetailType": "x", "Detail": "{}"}]
    ),
    "drop a log": lambda s: mine("logs").delete_log_group(
        logGroupName=s.platform.parts["agent"].facts["log_group"]
    ),
    "start a build": lambda s: mine("codebuild").start_build(projectName="models-images"),
    "serve as another role": lambda s: mine("sagemaker").create_model(
        ModelName="mine", ExecutionRoleArn=f"arn:aws:iam::{ACCOUNT}:role/admin", PrimaryContainer={"Image": "i"}
    ),
    "make an endpoint": lambda s: mine("sagemaker").create_endpoint(EndpointName="mine", EndpointConfigName="mine"),
    "delete another's endpoint": lambda s: mine("sagemaker").delete_endpoint(EndpointName="theirs"),
    "call another's endpoint": lambda s: mine("sagemaker-runtime").invoke_endpoint(EndpointName="theirs", Body=b"{}"),
    "run a task as another role": lambda s: mine("ecs").register_task_definition(
        family="mine", taskRoleArn=f"arn:aws:iam::{ACCOUNT}:role/admin", containerDefinitions=[]
    ),
    "make a service": lambda s: mine("ecs").create_express_gateway_service(
        serviceName="mine", infrastructureRoleArn=f"arn:aws:iam::{ACCOUNT}:role/admin"
    ),
    "delete another's service": lambda s: mine("ecs").delete_express_gateway_service(
        serviceArn=f"arn:aws:ecs:{s.region}:{ACCOUNT}:service/theirs/theirs"
    ),
    "look into another's tasks": lambda s: mine("ecs").list_tasks(cluster="theirs"),
    "change another's load balancer": lambda s: mine("elbv2").modify_load_balancer_attributes(
        LoadBalancerArn=f"arn:aws:elasticloadbalancing:{s.region}:{ACCOUNT}:loadbalancer/app/theirs/0123456789abcdef",
        Attributes=[{"Key": "idle_timeout.timeout_seconds", "Value": "1"}],
    ),
    "change an image": lambda s: mine("ecr").put_image(repositoryName="models", imageManifest="{}"),
    "forget an alarm": lambda s: mine("cloudwatch").delete_alarms(AlarmNames=["watch-tiny-api-errors"]),
}  # fmt: skip


def let_through(acting: Acting) -> list[str]:
    """What of all that is forbidden this process may do nevertheless, as whoever it is now."""
    let = []
    for what, do in FORBIDDEN.items():
        try:
            do(acting)
        except ClientError as error:
            if error.response["Error"]["Code"] in ("AccessDenied", "AccessDeniedException"):
                continue
            let.append(f"{what}: {error}")
        else:
            let.append(what)
    return let
