"""IAM in the emulated AWS: what a role is not allowed is refused, in the words of each service, and the rest goes on as before."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError

from ekiben.emulators.aws import Server, ensure, stop
from ekiben.emulators.aws.asking import Asked, asked
from ekiben.emulators.aws.call import Call
from ekiben.errors import AlreadyExists

from .test_functions import code

ACCOUNT, REGION = "123456789012", "us-east-1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    state_dir = tmp_path_factory.mktemp("aws")
    yield ensure(state_dir, iam=True)
    stop(state_dir)


Clients = Callable[[str], Any]


def clients(server: Server, **keys: str) -> Clients:
    given = keys or {"aws_access_key_id": "emulated", "aws_secret_access_key": "emulated"}
    return lambda service: boto3.client(service, endpoint_url=server.url, region_name=REGION, **given)


@pytest.fixture(scope="module")
def owner(server: Server) -> Clients:
    return clients(server)


@pytest.fixture
def role(server: Server, owner: Clients) -> Callable[..., Clients]:
    """A role with these statements, and the clients of one of its sessions."""

    def role(*statements: Mapping[str, Any]) -> Clients:
        iam, name = owner("iam"), f"r-{uuid.uuid4().hex[:8]}"
        trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}}
        arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=policy(trust))["Role"]["Arn"]
        iam.put_role_policy(RoleName=name, PolicyName="may", PolicyDocument=policy(*statements))
        given = owner("sts").assume_role(RoleArn=arn, RoleSessionName="test")["Credentials"]
        return clients(
            server, aws_access_key_id=given["AccessKeyId"], aws_secret_access_key=given["SecretAccessKey"],
            aws_session_token=given["SessionToken"],
        )  # fmt: skip

    return role


def policy(*statements: Mapping[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(actions: Any, resources: Any, **conditions: Any) -> dict[str, Any]:
    made = {"Effect": "Allow", "Action": actions, "Resource": resources}
    return {**made, "Condition": conditions} if conditions else made


def refused(call: Callable[[], Any], words: str = "") -> None:
    with pytest.raises(ClientError) as told:
        call()
    assert told.value.response["Error"]["Code"] in ("AccessDenied", "AccessDeniedException", "403"), told.value
    assert words in str(told.value)


def test_a_role_reads_and_writes_below_its_prefix_and_nowhere_else(
    owner: Clients, role: Callable[..., Clients]
) -> None:
    bucket, other = (f"b-{uuid.uuid4().hex[:8]}" for _ in range(2))
    for name in (bucket, other):
        owner("s3").create_bucket(Bucket=name)
        owner("s3").put_object(Bucket=name, Key="theirs/a", Body=b"1")
    s3 = role(
        allow(
            ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
            f"arn:aws:s3:::{bucket}/own/*",
        ),
        allow("s3:ListBucket", f"arn:aws:s3:::{bucket}", StringLike={"s3:prefix": "own/*"}),
    )("s3")
    s3.put_object(Bucket=bucket, Key="own/駅 %20.txt", Body=b"1")
    assert s3.get_object(Bucket=bucket, Key="own/駅 %20.txt")["Body"].read() == b"1"
    assert [one["Key"] for one in s3.list_objects_v2(Bucket=bucket, Prefix="own/")["Contents"]] == ["own/駅 %20.txt"]
    s3.copy_object(Bucket=bucket, Key="own/b", CopySource={"Bucket": bucket, "Key": "own/駅 %20.txt"})
    upload = s3.create_multipart_upload(Bucket=bucket, Key="own/c")["UploadId"]
    s3.upload_part(Bucket=bucket, Key="own/c", UploadId=upload, PartNumber=1, Body=b"1")
    s3.abort_multipart_upload(Bucket=bucket, Key="own/c", UploadId=upload)
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "own/b"}]})
    for wrong in (
        lambda: s3.get_object(Bucket=bucket, Key="theirs/a"),
        lambda: s3.head_object(Bucket=bucket, Key="theirs/a"),
        lambda: s3.get_object(Bucket=other, Key="theirs/a"),
        lambda: s3.put_object(Bucket=other, Key="own/a", Body=b"1"),
        lambda: s3.copy_object(Bucket=bucket, Key="own/b", CopySource={"Bucket": other, "Key": "theirs/a"}),
        lambda: s3.list_objects_v2(Bucket=bucket),
        lambda: s3.list_objects_v2(Bucket=bucket, Prefix="theirs/"),
        lambda: s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "own/x"}, {"Key": "theirs/a"}]}),
        lambda: s3.get_bucket_policy(Bucket=bucket),
        lambda: s3.delete_bucket(Bucket=bucket),
        lambda: s3.list_buckets(),
    ):
        refused(wrong)
    assert owner("s3").get_object(Bucket=bucket, Key="theirs/a")["Body"].read() == b"1"


def test_a_bucket_with_a_customer_s_key_asks_for_the_key_too(owner: Clients, role: Callable[..., Clients]) -> None:
    bucket, key = f"b-{uuid.uuid4().hex[:8]}", f"arn:aws:kms:{REGION}:{ACCOUNT}:key/theirs"
    owner("s3").create_bucket(Bucket=bucket)
    by = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key}
    rules = {"Rules": [{"ApplyServerSideEncryptionByDefault": by, "BucketKeyEnabled": True}]}
    owner("s3").put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=rules)
    objects = allow(["s3:GetObject", "s3:PutObject"], f"arn:aws:s3:::{bucket}/*")
    without, writes = role(objects)("s3"), role(objects, allow("kms:GenerateDataKey", key))("s3")
    refused(lambda: without.put_object(Bucket=bucket, Key="a", Body=b"1"), "kms:GenerateDataKey")
    writes.put_object(Bucket=bucket, Key="a", Body=b"1")
    refused(lambda: writes.get_object(Bucket=bucket, Key="a"), "kms:Decrypt")
    upload = writes.create_multipart_upload(Bucket=bucket, Key="b")["UploadId"]
    part = {"Bucket": bucket, "Key": "b", "UploadId": upload, "PartNumber": 1, "Body": b"1"}
    refused(lambda: writes.upload_part(**part), "kms:Decrypt")
    whole = role(objects, allow(["kms:GenerateDataKey", "kms:Decrypt"], key))("s3")
    assert whole.get_object(Bucket=bucket, Key="a")["Body"].read() == b"1"
    assert whole.upload_part(**part)["ETag"]


def test_each_service_says_it_in_its_own_words(role: Callable[..., Clients]) -> None:
    nobody = role(allow("sqs:SendMessage", f"arn:aws:sqs:{REGION}:{ACCOUNT}:mine"))
    nobody("sts").get_caller_identity()
    function = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:f"
    for wrong, words in (
        (lambda: nobody("iam").create_role(RoleName="x", AssumeRolePolicyDocument="{}"), "iam:CreateRole on resource"),
        (lambda: nobody("sns").publish(TopicArn=f"arn:aws:sns:{REGION}:{ACCOUNT}:t", Message="x"), "sns:Publish"),
        (
            lambda: nobody("lambda").invoke(FunctionName="f", Payload=b"1"),
            f"lambda:InvokeFunction on resource: {function}",
        ),
        (lambda: nobody("sagemaker").stop_training_job(TrainingJobName="j"), "training-job/j"),
        (lambda: nobody("sagemaker-runtime").invoke_endpoint(EndpointName="e", Body=b"1"), "sagemaker:InvokeEndpoint"),
        (lambda: nobody("cloudwatch").put_metric_data(Namespace="n", MetricData=[]), "cloudwatch:PutMetricData"),
        (lambda: nobody("secretsmanager").get_secret_value(SecretId="theirs"), "secret:theirs"),
        (lambda: nobody("logs").filter_log_events(logGroupName="/g"), "log-group:/g"),
        (lambda: nobody("kms").decrypt(KeyId="k", CiphertextBlob=b"1"), "kms:Decrypt"),
        (lambda: nobody("scheduler").list_schedules(), "scheduler:ListSchedules"),
        (lambda: nobody("ecs").list_tasks(cluster="c"), "ecs:ListTasks"),
        (
            lambda: nobody("elbv2").modify_load_balancer_attributes(LoadBalancerArn="arn:b", Attributes=[]),
            "elasticloadbalancing:ModifyLoadBalancerAttributes",
        ),
    ):
        refused(wrong, words)  # type: ignore[arg-type]


def test_a_role_is_passed_on_only_to_the_service_that_was_said(owner: Clients, role: Callable[..., Clients]) -> None:
    given, name = f"arn:aws:iam::{ACCOUNT}:role/given", f"f-{uuid.uuid4().hex[:8]}"
    function = allow("lambda:CreateFunction", f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}")
    to_sagemaker = allow("iam:PassRole", given, StringEquals={"iam:PassedToService": "sagemaker.amazonaws.com"})
    asked_for = {
        "FunctionName": name,
        "Runtime": "python3.11",
        "Role": given,
        "Handler": "main.handler",
        "Code": {"ZipFile": code("")},
    }
    refused(lambda: role(function, to_sagemaker)("lambda").create_function(**asked_for), "iam:PassRole")


def test_what_is_denied_is_denied_whatever_else_allows_it(role: Callable[..., Clients]) -> None:
    queue = f"arn:aws:sqs:{REGION}:{ACCOUNT}:q"
    sqs = role(allow("sqs:*", "*"), {"Effect": "Deny", "Action": "sqs:CreateQueue", "Resource": queue})("sqs")
    refused(lambda: sqs.create_queue(QueueName="q"))
    assert sqs.create_queue(QueueName="p")["QueueUrl"]


def test_keys_that_nobody_was_given_open_nothing(server: Server) -> None:
    stranger = clients(server, aws_access_key_id="AKIAIOSFODNN7EXAMPLE", aws_secret_access_key="x")
    with pytest.raises(ClientError) as told:
        stranger("sqs").list_queues()
    assert told.value.response["Error"]["Code"] == "InvalidClientTokenId"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{server.url}/some-bucket/key")


def test_a_function_acts_as_its_role_and_its_url_asks_for_leave(
    server: Server, owner: Clients, role: Callable[..., Clients]
) -> None:
    iam, name = owner("iam"), f"f-{uuid.uuid4().hex[:8]}"
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "lambda.amazonaws.com"}}
    arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=policy(trust))["Role"]["Arn"]
    mine = f"arn:aws:sqs:{REGION}:{ACCOUNT}:mine-{name}"
    iam.put_role_policy(RoleName=name, PolicyName="may", PolicyDocument=policy(allow("sqs:CreateQueue", mine)))
    text = "import boto3\ndef handler(event, context): return boto3.client('sqs').create_queue(QueueName=event)['QueueUrl']\n"
    lambda_ = owner("lambda")
    function = lambda_.create_function(
        FunctionName=name,
        Runtime="python3.11",
        Role=arn,
        Handler="main.handler",
        Code={"ZipFile": code(text)},
        Timeout=30,
    )["FunctionArn"]
    made = lambda_.invoke(FunctionName=name, Payload=json.dumps(f"mine-{name}"))
    assert json.loads(made["Payload"].read()).endswith(f"mine-{name}")
    wrong = json.loads(lambda_.invoke(FunctionName=name, Payload=json.dumps("theirs"))["Payload"].read())
    assert "not authorized to perform: sqs:CreateQueue" in wrong["errorMessage"]

    url = lambda_.create_function_url_config(FunctionName=name, AuthType="AWS_IAM")["FunctionUrl"]

    def ask(who: Clients) -> int:
        keys = who("sts")._request_signer._credentials
        request = AWSRequest("POST", url, data=b"1")
        SigV4Auth(keys, "lambda", REGION).add_auth(request)
        sent = urllib.request.Request(url, data=b"1", headers=dict(request.headers), method="POST")
        try:
            return int(urllib.request.urlopen(sent).status)
        except urllib.error.HTTPError as error:
            return error.code

    both = ["lambda:InvokeFunctionUrl", "lambda:InvokeFunction"]
    assert ask(role(allow(both[0], function))) == 403, "since 2025 both are needed"
    assert ask(role(allow(both, function))) != 403


def test_a_server_that_judges_nobody_is_not_taken_for_one_that_does(tmp_path_factory: pytest.TempPathFactory) -> None:
    state_dir = tmp_path_factory.mktemp("open")
    try:
        ensure(state_dir)
        with pytest.raises(AlreadyExists, match="lets everybody do everything"):
            ensure(state_dir, iam=True)
    finally:
        stop(state_dir)


def environ(method: str, path: str, service: str, query: str = "", **more: str) -> dict[str, Any]:
    scope = f"Credential=k/20260101/{REGION}/{service}/aws4_request, SignedHeaders=host"
    return {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "HTTP_AUTHORIZATION": f"AWS4 {scope}",
        "wsgi.input": io.BytesIO(),
        **more,
    }


@pytest.mark.parametrize(
    ("request_", "action", "resource"),
    [
        (("GET", "/2015-03-31/functions/f/aliases/live", "lambda"), "lambda:GetAlias", "function:f"),
        (("DELETE", "/2015-03-31/functions/f", "lambda", "Qualifier=3"), "lambda:DeleteFunction", "function:f:3"),
        (("GET", "/2015-03-31/functions/f/versions", "lambda"), "lambda:ListVersionsByFunction", "function:f"),
        (
            ("GET", "/2019-09-30/functions/f/provisioned-concurrency", "lambda", "List=ALL"),
            "lambda:ListProvisionedConcurrencyConfigs",
            "function:f",
        ),
        (
            ("GET", "/2019-09-30/functions/f/provisioned-concurrency", "lambda", "Qualifier=3"),
            "lambda:GetProvisionedConcurrencyConfig",
            "function:f:3",
        ),
        (("POST", "/endpoints/e/invocations", "sagemaker"), "sagemaker:InvokeEndpoint", "endpoint/e"),
        (("GET", "/b/k", "s3", "versionId=1"), "s3:GetObjectVersion", "b/k"),
        (("GET", "/b", "s3", "versions&prefix=x"), "s3:ListBucketVersions", ":b"),
        (("PUT", "/b/k", "s3", "partNumber=1&uploadId=u"), "s3:PutObject", "b/k"),
        (("PUT", "/b", "s3", "policy"), "s3:PutBucketPolicy", ":b"),
    ],
)
def test_a_request_is_read_as_iam_reads_it(request_: tuple[str, ...], action: str, resource: str) -> None:
    (one,) = asked(Call(environ(*request_)))
    assert isinstance(one, Asked)
    assert one.action == action
    assert one.resource.endswith(resource)


ARN = f"arn:aws:ecs:{REGION}:{ACCOUNT}"
ROLE = f"arn:aws:iam::{ACCOUNT}:role"


@pytest.mark.parametrize(
    ("operation", "given", "needs"),
    [
        (
            "CreateExpressGatewayService",
            {"cluster": f"{ARN}:cluster/c", "serviceName": "s", "infrastructureRoleArn": f"{ROLE}/i", "tags": [{}]},
            {
                ("ecs:CreateExpressGatewayService", f"{ARN}:service/c/s"), ("ecs:TagResource", f"{ARN}:service/c/s"),
                ("iam:PassRole", f"{ROLE}/i"),
            },
        ),
        ("ListServiceDeployments", {"service": "s"}, {("ecs:ListServiceDeployments", f"{ARN}:service/default/s")}),
        (
            "RegisterTaskDefinition",
            {"family": "f", "taskRoleArn": f"{ROLE}/t", "executionRoleArn": f"{ROLE}/e"},
            {
                ("ecs:RegisterTaskDefinition", f"{ARN}:task-definition/f:1"), ("iam:PassRole", f"{ROLE}/t"),
                ("iam:PassRole", f"{ROLE}/e"),
            },
        ),
        (
            "DescribeTasks",
            {"cluster": "c", "tasks": ["t", f"{ARN}:task/c/u"]},
            {("ecs:DescribeTasks", f"{ARN}:task/c/t"), ("ecs:DescribeTasks", f"{ARN}:task/c/u")},
        ),
        ("ListTasks", {"cluster": "c", "serviceName": "s"}, {("ecs:ListTasks", "*")}),
        ("PutCluster", {"cluster": "c"}, {("ecs:PutCluster", "*")}),
    ],
)  # fmt: skip
def test_a_request_of_ecs_is_read_as_iam_reads_it(
    operation: str, given: Mapping[str, Any], needs: set[tuple[str, str]]
) -> None:
    body = json.dumps(given).encode()
    told = {
        "HTTP_X_AMZ_TARGET": f"AmazonEC2ContainerServiceV20141113.{operation}", "wsgi.input": io.BytesIO(body),
        "CONTENT_LENGTH": str(len(body)), "HTTP_X_MOTO_ACCOUNT_ID": ACCOUNT,
    }  # fmt: skip
    found = list(asked(Call(environ("POST", "/", "ecs", **told))))
    assert {(one.action, one.resource) for one in found} == needs
    if operation == "ListTasks":
        assert found[0].values == {"ecs:cluster": f"{ARN}:cluster/c"}


def test_what_a_service_does_for_a_role_is_left_undone_where_the_role_may_not(server: Server, owner: Clients) -> None:
    """As on AWS: no log, no dead letter, and no start at all for a role that does not trust Lambda."""
    iam, lambda_, logs, name = owner("iam"), owner("lambda"), owner("logs"), f"f-{uuid.uuid4().hex[:8]}"

    def make(suffix: str, principal: str, *statements: Mapping[str, Any]) -> str:
        trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": principal}}
        arn = iam.create_role(RoleName=name + suffix, AssumeRolePolicyDocument=policy(trust))["Role"]["Arn"]
        if statements:
            iam.put_role_policy(RoleName=name + suffix, PolicyName="may", PolicyDocument=policy(*statements))
        lambda_.create_function(
            FunctionName=name + suffix, Runtime="python3.11", Role=arn, Handler="main.handler", Timeout=30,
            Code={"ZipFile": code("def handler(event, context): print('heard')\n")},
        )  # fmt: skip
        return name + suffix

    def logged(function: str) -> bool:
        groups = logs.describe_log_groups(logGroupNamePrefix=f"/aws/lambda/{function}")["logGroups"]
        return any("heard" in one["message"] for group in groups for one in logs.filter_log_events(
            logGroupName=group["logGroupName"])["events"])  # fmt: skip

    group = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/aws/lambda/{name}-well:*"
    well = make("-well", "lambda.amazonaws.com", allow(["logs:CreateLogStream", "logs:PutLogEvents"], group))
    mute = make("-mute", "lambda.amazonaws.com")
    other = make("-other", "scheduler.amazonaws.com")
    for function in (well, mute):
        assert "FunctionError" not in lambda_.invoke(FunctionName=function, Payload=b"1")
    assert logged(well)
    assert not logged(mute)
    with pytest.raises(ClientError, match="does not let lambda.amazonaws.com assume it"):
        lambda_.invoke(FunctionName=other, Payload=b"1")
    assert f"role/{mute} may not logs:CreateLogStream" in (server.state_dir / "aws.log").read_text()
