"""Functions of the emulated AWS run: their own code, in processes of their own, by version, alias, URL and event."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request
import zipfile
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.waiting import until

from .conftest import Aws

ROLE = "arn:aws:iam::123456789012:role/runner"


def code(text: str, **more: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in {"main.py": text, **more}.items():
            archive.writestr(name, content)
    return made.getvalue()


def make(aws: Aws, name: str, text: str, **more: Any) -> str:
    if not any(role["RoleName"] == "runner" for role in aws.iam.list_roles()["Roles"]):
        allow = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "lambda.amazonaws.com"}}
        trust = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
        aws.iam.create_role(RoleName="runner", AssumeRolePolicyDocument=trust)
    made = aws.__getattr__("lambda").create_function(
        **{
            "FunctionName": name, "Runtime": "python3.11", "Role": ROLE, "Handler": "main.handler", "Timeout": 20,
            "Code": {"ZipFile": code(text)}, **more,
        }
    )  # fmt: skip
    return str(made["FunctionArn"])


def call(aws: Aws, name: str, event: Any = None, **more: Any) -> Any:
    return aws.__getattr__("lambda").invoke(FunctionName=name, Payload=json.dumps(event), **more)


def value(answer: Any) -> Any:
    return json.loads(answer["Payload"].read() or b"null")


def test_a_function_runs_its_own_code_with_its_own_environment(aws: Aws) -> None:
    make(
        aws, "whole",
        "import json, os, sys, boto3\n"
        "count = 0\n"
        "def handler(event, context):\n"
        "    global count\n"
        "    count += 1\n"
        "    print('heard', event)\n"
        "    who = boto3.client('sts').get_caller_identity()['Arn']\n"
        "    try:\n"
        "        import pulumi\n"
        "    except ImportError:\n"
        "        pulumi = None\n"
        "    return [event, os.environ['WORD'], context.function_name, who.split(':')[-1], count, pulumi is None]\n",
        Environment={"Variables": {"WORD": "一"}},
    )  # fmt: skip
    answer = call(aws, "whole", {"a": "é"}, LogType="Tail")
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "$LATEST")
    assert value(answer) == [{"a": "é"}, "一", "whole", "assumed-role/runner/lambda", 1, True]
    assert value(call(aws, "whole"))[4] == 2  # the same process

    def lines() -> str:
        found = aws.logs.filter_log_events(logGroupName="/aws/lambda/whole")["events"]
        return "\n".join(event["message"] for event in found)

    assert "heard {'a': 'é'}" in lines()
    assert "REPORT RequestId:" in lines()


def test_what_fails_says_so(aws: Aws) -> None:
    make(
        aws, "fails",
        "import os, time\n"
        "def handler(event, context):\n"
        "    if event == 'raise': raise KeyError('no such thing')\n"
        "    if event == 'exit': os._exit(3)\n"
        "    if event == 'hang': time.sleep(60)\n"
        "    return 'well'\n",
        Timeout=1,
    )  # fmt: skip
    raised = call(aws, "fails", "raise")
    assert (raised["FunctionError"], value(raised)["errorType"]) == ("Unhandled", "KeyError")
    assert value(call(aws, "fails", "exit"))["errorType"] == "Runtime.ExitError"
    assert "timed out after 1.00 seconds" in value(call(aws, "fails", "hang"))["errorMessage"]
    assert value(call(aws, "fails")) == "well"
    make(aws, "unloadable", "import no_such_module\n")
    broken = value(call(aws, "unloadable"))
    assert (broken["errorType"], "no_such_module" in broken["errorMessage"]) == ("Runtime.ImportModuleError", True)
    make(aws, "other", "x", Runtime="nodejs22.x", Handler="main.handler")
    with pytest.raises(ClientError, match="in Python, and images"):
        call(aws, "other")
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        call(aws, "absent")


def test_versions_and_aliases_are_obeyed(aws: Aws) -> None:
    client = aws.__getattr__("lambda")
    make(aws, "told", "def handler(event, context): return 'one'\n")
    first = client.publish_version(FunctionName="told")["Version"]
    client.update_function_code(FunctionName="told", ZipFile=code("def handler(event, context): return 'two'\n"))
    second = client.publish_version(FunctionName="told")["Version"]
    assert value(call(aws, "told", Qualifier=first)) == "one"
    assert value(call(aws, f"told:{second}")) == "two"
    client.create_alias(FunctionName="told", Name="live", FunctionVersion=first)
    assert value(call(aws, "told", Qualifier="live")) == "one"
    client.update_alias(
        FunctionName="told",
        Name="live",
        FunctionVersion=first,
        RoutingConfig={"AdditionalVersionWeights": {second: 0.5}},
    )
    seen = [call(aws, "told", Qualifier="live")["ExecutedVersion"] for _ in range(40)]
    assert set(seen) == {first, second}
    client.update_alias(
        FunctionName="told", Name="live", FunctionVersion=second, RoutingConfig={"AdditionalVersionWeights": {}}
    )
    assert value(call(aws, "told", Qualifier="live")) == "two"
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        call(aws, "told", Qualifier="nobody")


def test_a_url_answers(aws: Aws) -> None:
    client = aws.__getattr__("lambda")
    make(
        aws, "web",
        "def handler(event, context):\n"
        "    http = event['requestContext']['http']\n"
        "    said = [http['method'], event['rawPath'], event.get('queryStringParameters'), event.get('body')]\n"
        "    return {'statusCode': 201, 'headers': {'X-Said': 'yes'}, 'body': str(said)}\n",
    )  # fmt: skip
    url = client.create_function_url_config(FunctionName="web", AuthType="NONE")["FunctionUrl"]
    assert client.get_function_url_config(FunctionName="web")["FunctionUrl"] == url
    request = urllib.request.Request(url + "a/b?c=d", b'{"x":1}', {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        assert (answer.status, answer.headers["X-Said"]) == (201, "yes")
        assert answer.read().decode() == str(["POST", "/a/b", {"c": "d"}, '{"x":1}'])
    client.update_function_url_config(FunctionName="web", AuthType="AWS_IAM")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(url)


def test_an_object_in_a_bucket_reaches_a_function_by_eventbridge(aws: Aws) -> None:
    aws.s3.create_bucket(Bucket="lake")
    aws.s3.put_bucket_notification_configuration(
        Bucket="lake", NotificationConfiguration={"EventBridgeConfiguration": {}}
    )
    aws.s3.create_bucket(Bucket="heard")
    arn = make(
        aws, "onto",
        "import json, boto3\n"
        "def handler(event, context):\n"
        "    found = event['detail']['object']['key']\n"
        "    boto3.client('s3').put_object(Bucket='heard', Key=found, Body=json.dumps(event).encode())\n",
    )  # fmt: skip
    detail = {"bucket": {"name": ["lake"]}, "object": {"key": [{"prefix": "in/"}]}}
    pattern = {"source": ["aws.s3"], "detail-type": ["Object Created"], "detail": detail}
    rule = aws.events.put_rule(Name="new", EventPattern=json.dumps(pattern))["RuleArn"]
    letters = aws.sqs.create_queue(QueueName="letters")["QueueUrl"]
    aws.events.put_targets(
        Rule="new",
        Targets=[{"Id": "f", "Arn": arn, "DeadLetterConfig": {"Arn": "arn:aws:sqs:us-east-1:123456789012:letters"}}],
    )
    # The function does not let EventBridge invoke it yet.
    aws.s3.put_object(Bucket="lake", Key="in/refused", Body=b"x")
    letter = until(lambda: aws.sqs.receive_message(QueueUrl=letters, MessageAttributeNames=["All"]).get("Messages"))[0]
    assert json.loads(letter["Body"])["detail"]["object"]["key"] == "in/refused"
    assert letter["MessageAttributes"]["ERROR_CODE"]["StringValue"] == "AccessDeniedException"
    aws.__getattr__("lambda").add_permission(
        FunctionName="onto",
        StatementId="e",
        Action="lambda:InvokeFunction",
        Principal="events.amazonaws.com",
        SourceArn=rule,
    )
    aws.s3.put_object(Bucket="lake", Key="out/x", Body=b"x")
    aws.s3.put_object(Bucket="lake", Key="in/x y é", Body=b"x")
    found = until(lambda: aws.s3.list_objects_v2(Bucket="heard").get("Contents"))
    assert [one["Key"] for one in found] == ["in/x y é"]
    event = json.loads(aws.s3.get_object(Bucket="heard", Key="in/x y é")["Body"].read())
    assert (event["detail-type"], event["source"], event["time"][10]) == ("Object Created", "aws.s3", "T")


def test_a_function_over_its_memory_is_ended_with_all_that_it_started(aws: Aws) -> None:
    make(
        aws, "greedy",
        "import subprocess, sys, time\n"
        "EAT = 'import time; held = bytearray(300 * 2**20); time.sleep(60)'\n"
        "def handler(event, context):\n"
        "    print('eats', flush=True)\n"
        "    if event.get('eat'):\n"
        "        subprocess.run([sys.executable, '-c', EAT])\n"
        "    return 'full'\n",
        MemorySize=256, Timeout=60,
    )  # fmt: skip
    said = call(aws, "greedy", {"eat": 1}, LogType="Tail")
    assert said["FunctionError"] == "Unhandled"
    told = json.loads(said["Payload"].read())
    assert told["errorType"] == "Runtime.ExitError"
    assert told["errorMessage"].endswith("Runtime exited with error: signal: killed")
    assert json.loads(call(aws, "greedy", {})["Payload"].read()) == "full", "the next one is served"


def test_an_event_is_tried_again_and_then_kept(aws: Aws) -> None:
    aws.sqs.create_queue(QueueName="dead")
    queue = aws.sqs.get_queue_url(QueueName="dead")["QueueUrl"]
    aws.s3.create_bucket(Bucket="tries")
    target = {"TargetArn": "arn:aws:sqs:us-east-1:123456789012:dead"}
    make(
        aws, "again",
        "import boto3, uuid\n"
        "def handler(event, context):\n"
        "    boto3.client('s3').put_object(Bucket='tries', Key=str(uuid.uuid4()), Body=context.aws_request_id.encode())\n"
        "    raise ValueError('never')\n",
        DeadLetterConfig=target,
    )  # fmt: skip
    client = aws.__getattr__("lambda")
    assert client.get_function_configuration(FunctionName="again")["DeadLetterConfig"] == target
    client.put_function_event_invoke_config(FunctionName="again", MaximumRetryAttempts=1)
    assert call(aws, "again", {"n": 1}, InvocationType="Event")["StatusCode"] == 202
    letter = until(lambda: aws.sqs.receive_message(QueueUrl=queue, MessageAttributeNames=["All"]).get("Messages"))[0]
    assert json.loads(letter["Body"]) == {"n": 1}
    assert "never" in letter["MessageAttributes"]["ErrorMessage"]["StringValue"]
    bodies = [
        aws.s3.get_object(Bucket="tries", Key=one["Key"])["Body"].read().decode()
        for one in aws.s3.list_objects_v2(Bucket="tries")["Contents"]
    ]
    assert bodies == [letter["MessageAttributes"]["RequestID"]["StringValue"]] * 2, "every try is the same request"
