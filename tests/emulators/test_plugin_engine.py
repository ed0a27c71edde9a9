"""The stand-in plugin under the real engine: the whole life of a stack, and what is in moto at each step of it."""

from __future__ import annotations

import urllib.request

import pytest
from botocore.exceptions import ClientError

from .conftest import Aws, Project

pytestmark = pytest.mark.engine

LAKE = """
config = pulumi.Config()
tag = config.get("tag") or "one"
who = aws.get_caller_identity()
lake = aws.s3.Bucket("lake", force_destroy=True, tags={"which": tag})
aws.s3.BucketVersioning("lake", bucket=lake.id, versioning_configuration={"status": "Enabled"})
aws.s3.BucketServerSideEncryptionConfiguration(
    "lake", bucket=lake.id, rules=[{"apply_server_side_encryption_by_default": {"sse_algorithm": "AES256"}}]
)
aws.s3.BucketOwnershipControls("lake", bucket=lake.id, rule={"object_ownership": "BucketOwnerEnforced"})
aws.s3.BucketPublicAccessBlock(
    "lake", bucket=lake.id, block_public_acls=True, block_public_policy=True, ignore_public_acls=True, restrict_public_buckets=True
)
aws.s3.BucketLifecycleConfiguration("lake", bucket=lake.id, rules=[{
    "id": "old", "status": "Enabled", "filter": {"prefix": "runs/"},
    "noncurrent_version_expiration": {"noncurrent_days": 30}, "abort_incomplete_multipart_upload": {"days_after_initiation": 7},
}])
aws.s3.BucketNotification("lake", bucket=lake.id, eventbridge=True)
tls = lake.arn.apply(lambda arn: json.dumps({"Version": "2012-10-17", "Statement": [{
    "Sid": "TlsOnly", "Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": [arn, arn + "/*"],
    "Condition": {"Bool": {"aws:SecureTransport": "false"}, "StringEquals": {"aws:PrincipalTag/which": tag}},
}]}))
aws.s3.BucketPolicy("lake", bucket=lake.id, policy=tls)
trust = aws.iam.get_policy_document(statements=[{
    "actions": ["sts:AssumeRole"], "principals": [{"type": "Service", "identifiers": ["lambda.amazonaws.com"]}],
}])
role = aws.iam.Role("runner", assume_role_policy=trust.json, name=config.get("role"))
reads = aws.iam.Policy("reads", policy=lake.arn.apply(lambda arn: json.dumps({"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [arn + "/*"]}]})))
aws.iam.RolePolicyAttachment("reads", role=role.name, policy_arn=reads.arn)
group = aws.cloudwatch.LogGroup("runs", retention_in_days=30)
aws.iam.RolePolicy("logs", role=role.id, policy=group.arn.apply(lambda arn: json.dumps({"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Action": ["logs:PutLogEvents"], "Resource": [arn + ":*"]}]})))
dead = aws.sqs.Queue("dead", message_retention_seconds=1209600)
alarms = aws.sns.Topic("alarms")
aws.sns.TopicSubscription("alarms", topic=alarms.arn, protocol="sqs", endpoint=dead.arn)
aws.sqs.QueuePolicy("dead", queue_url=dead.id, policy=dead.arn.apply(lambda arn: json.dumps({"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Principal": {"Service": "sns.amazonaws.com"}, "Action": "sqs:SendMessage", "Resource": arn}]})))
aws.cloudwatch.MetricAlarm(
    "errors", namespace="AWS/Lambda", metric_name="Errors", statistic="Sum", period=300, evaluation_periods=1, threshold=1,
    comparison_operator="GreaterThanOrEqualToThreshold", alarm_actions=[alarms.arn], dimensions={"FunctionName": "f"},
)
rule = aws.cloudwatch.EventRule("new", event_pattern=lake.id.apply(lambda name: json.dumps({
    "source": ["aws.s3"], "detail-type": ["Object Created"], "detail": {"bucket": {"name": [name]}}})))
aws.cloudwatch.EventTarget(
    "new", rule=rule.name, arn=dead.arn, retry_policy={"maximum_retry_attempts": 3, "maximum_event_age_in_seconds": 600}
)
pulumi.export("bucket", lake.id)
pulumi.export("role", role.arn)
pulumi.export("account", who.account_id)
pulumi.export("queue", dead.url)
"""


def buckets(aws: Aws) -> list[str]:
    return [bucket["Name"] for bucket in aws.s3.list_buckets()["Buckets"]]


def roles(aws: Aws) -> set[str]:
    return {role["RoleName"] for role in aws.iam.list_roles()["Roles"]}


@pytest.mark.timeout(900)
def test_a_stack_lives_from_up_to_destroy(project: Project, aws: Aws) -> None:
    project.program(LAKE)
    project("up", "--yes")
    made = project.outputs()
    bucket = made["bucket"]
    assert aws.s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    assert aws.s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == [{"Key": "which", "Value": "one"}]
    rules = aws.s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert rules[0]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}
    assert made["account"] == "123456789012"
    assert made["role"].startswith("arn:aws:iam::123456789012:role/runner-")

    # Nothing has changed, and what is there is what the state says.
    assert project.changes() == {}
    project("refresh", "--yes", "--expect-no-changes")

    # Changes in place, and one that takes another resource.
    project("config", "set", "tag", "two")
    project("config", "set", "role", "a-name-of-its-own")
    ops = project.changes()
    assert (ops["lake"], ops["runner"], ops["reads"], ops["logs"]) == ("update", "replace", "replace", "replace")
    project("up", "--yes")
    assert aws.s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == [{"Key": "which", "Value": "two"}]
    assert {"a-name-of-its-own", made["role"].rpartition("/")[2]} & roles(aws) == {"a-name-of-its-own"}

    # What was changed and deleted behind its back, a refresh finds and the next up mends.
    aws.s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    queue = made["queue"]
    aws.sqs.delete_queue(QueueUrl=queue)
    project("refresh", "--yes")
    ops = project.changes()
    assert {name: ops[name] for name in ("lake", "dead")} == {"lake": "update", "dead": "create"}
    project("up", "--yes")
    assert aws.s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"

    # A bucket with things in it goes, too: it was said so.
    aws.s3.put_object(Bucket=bucket, Key="a/b", Body=b"x")
    aws.s3.delete_object(Bucket=bucket, Key="a/b")
    project("destroy", "--yes")
    with pytest.raises(ClientError, match="404"):
        aws.s3.head_bucket(Bucket=bucket)
    assert "a-name-of-its-own" not in roles(aws)
    assert aws.logs.describe_log_groups(logGroupNamePrefix="runs-")["logGroups"] == []
    assert aws.sqs.list_queues(QueueNamePrefix="dead-").get("QueueUrls", []) == []
    assert aws.events.list_rules(NamePrefix="new-")["Rules"] == []


def test_what_is_wrong_is_refused_before_anything_is_made(project: Project, aws: Aws) -> None:
    project.program(
        "class Odd(pulumi.CustomResource):\n"
        "    def __init__(self, type_, name, props):\n"
        "        super().__init__(type_, name, props)\n"
        'Odd("aws:s3/bucket:Bucket", "a", {"bukcet": "x", "acl": "private"})\n'
    )
    told = project("preview", fails=True)
    assert "bukcet" in told
    assert "BucketArgs has no such property" in told
    assert "the stand-in does nothing with it" in told
    assert not [name for name in buckets(aws) if name.startswith("a-")]


def test_what_is_there_is_imported(project: Project, aws: Aws) -> None:
    aws.s3.create_bucket(Bucket="theirs")
    aws.logs.create_log_group(logGroupName="/theirs")
    aws.logs.put_retention_policy(logGroupName="/theirs", retentionInDays=7)
    project.program(
        'aws.s3.Bucket("b", bucket="theirs", opts=pulumi.ResourceOptions(import_="theirs"))\n'
        'aws.cloudwatch.LogGroup("g", name="/theirs", retention_in_days=7, opts=pulumi.ResourceOptions(import_="/theirs"))\n'
    )
    project("up", "--yes")
    assert project.changes() == {}
    project("destroy", "--yes")
    assert "theirs" not in buckets(aws)


def test_it_works_on_this_machine_only(project: Project) -> None:
    project.env["AWS_ENDPOINT_URL"] = "https://s3.us-east-1.amazonaws.com"
    project.program('aws.s3.Bucket("b")\n')
    assert "works on an emulated AWS of this machine only" in project("preview", fails=True)


SERVE = """
config = pulumi.Config()
trust = json.dumps({"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "lambda.amazonaws.com"}}]})
role = aws.iam.Role("runner", assume_role_policy=trust)
one = aws.lambda_.Function(
    "one", role=role.arn, runtime="python3.11", handler="main.handler", publish=True,
    code=pulumi.AssetArchive({"main.py": pulumi.FileAsset("hello/main.py"), "lib": pulumi.FileArchive("hello/lib")}),
    environment={"variables": {"WORD": config.get("word") or "first"}},
)
live = aws.lambda_.Alias("live", function_name=one.name, function_version=one.version)
url = aws.lambda_.FunctionUrl("one", function_name=one.name, authorization_type="NONE")
pulumi.export("name", one.name)
pulumi.export("version", one.version)
pulumi.export("url", url.function_url)
"""


def test_a_function_goes_live_with_its_alias(project: Project, aws: Aws) -> None:
    (project.root / "hello" / "lib").mkdir(parents=True)
    (project.root / "hello" / "lib" / "said.py").write_text("WORD = 'a'\n")
    (project.root / "hello" / "main.py").write_text(
        "import os\nfrom lib.said import WORD\ndef handler(event, context): return WORD + os.environ['WORD']\n"
    )
    project.program(SERVE)
    project("up", "--yes")
    made = project.outputs()

    def said() -> tuple[str, str]:
        alias = aws.client("lambda").list_aliases(FunctionName=made["name"])["Aliases"][0]["Name"]
        answer = aws.client("lambda").invoke(FunctionName=made["name"], Qualifier=alias)
        return answer["ExecutedVersion"], answer["Payload"].read().decode()

    assert (made["version"], said()) == ("1", ("1", '"afirst"'))
    with urllib.request.urlopen(made["url"]) as answer:
        assert answer.read() == b"afirst"
    (project.root / "hello" / "lib" / "said.py").write_text("WORD = 'b'\n")
    assert project.changes() == {"one": "update", "live": "update"}
    project("up", "--yes")
    assert said() == ("2", '"bfirst"')
    project("destroy", "--yes")
    left = aws.client("lambda").list_functions()["Functions"]
    assert made["name"] not in [function["FunctionName"] for function in left]
