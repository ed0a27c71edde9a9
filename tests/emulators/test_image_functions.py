"""Functions from images of the emulated AWS: behind the web adapter, by version and URL, one request at a time in each process."""

from __future__ import annotations

import base64
import concurrent.futures
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from . import images
from .conftest import Aws

# It asks the Runtime API itself, as a container without the web adapter has to.
LOOP = """\
import json, os, urllib.request
api = f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}/2018-06-01/runtime/invocation/"
while True:
    with urllib.request.urlopen(api + "next") as asked:
        id, event = asked.headers["Lambda-Runtime-Aws-Request-Id"], json.load(asked)
    said = json.dumps({"event": event, "stream": os.environ["AWS_LAMBDA_LOG_STREAM_NAME"]}).encode()
    urllib.request.urlopen(api + id + "/response", said)
"""


def event(body: Any, method: str = "POST", path: str = "/predict") -> dict[str, Any]:
    return {
        "version": "2.0", "rawPath": path, "headers": {"content-type": "application/json"}, "body": json.dumps(body),
        "requestContext": {"http": {"method": method, "path": path}}, "isBase64Encoded": False,
    }  # fmt: skip


@pytest.fixture(scope="module")
def client(builds: Aws) -> Any:
    images.role(builds, "imaged", "lambda")
    return builds.client("lambda")


@pytest.fixture(scope="module")
def make(client: Any, small: str) -> Callable[..., str]:
    def made(name: str, **more: Any) -> str:
        given = {"Code": {"ImageUri": small}, "Timeout": 20, "Environment": {"Variables": {"NAME": name}}, **more}
        client.create_function(
            FunctionName=name, PackageType="Image", Role="arn:aws:iam::123456789012:role/imaged", **given
        )
        return name

    return made


def ask(client: Any, name: str, asked: Any = None, **more: Any) -> tuple[dict[str, Any], str]:
    """What it answers, by HTTP as an event says it, and its log."""
    said = client.invoke(FunctionName=name, Payload=json.dumps(event(asked or {})), LogType="Tail", **more)
    payload, log = json.loads(said["Payload"].read()), base64.b64decode(said["LogResult"]).decode()
    return (payload if "FunctionError" in said else {**payload, **json.loads(payload["body"])}), log


def test_a_request_and_its_answer(client: Any, make: Callable[..., str], aws: Aws) -> None:
    told, log = ask(client, make("plain"), {"x": 1})
    assert (told["statusCode"], told["name"], told["greeting"], told["words"]) == (200, "plain", "hello", ["alone"])
    assert 'asked /predict {"x": 1}' in log
    assert "Init Duration" in log
    again, log = ask(client, "plain", {"status": 418})
    assert (again["statusCode"], again["error"]) == (418, "as asked")
    assert "Init Duration" not in log, "the process was there already"
    (stream,) = aws.logs.describe_log_streams(logGroupName="/aws/lambda/plain")["logStreams"]
    assert "[$LATEST]" in stream["logStreamName"], "one stream for one process"


def test_other_events_are_posted(client: Any, make: Callable[..., str]) -> None:
    name = make("posted", Environment={"Variables": {"NAME": "p", "AWS_LWA_PASS_THROUGH_PATH": "/told"}})
    said = client.invoke(FunctionName=name, Payload=b'{"source": "me"}', LogType="Tail")
    assert json.loads(said["Payload"].read())["name"] == "p"
    assert 'asked /told {"source": "me"}' in base64.b64decode(said["LogResult"]).decode()


def test_one_request_at_a_time_in_each_process(client: Any, make: Callable[..., str]) -> None:
    name = make("crowded")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        answers = pool.map(lambda _: ask(client, name, {"s": 0.5})[0]["pid"], range(3))
        assert len(set(answers)) == 3
    client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    with pytest.raises(ClientError, match="TooManyRequests"):
        ask(client, name)


def test_what_takes_too_long_or_dies_is_told_and_the_next_goes_on(client: Any, make: Callable[..., str]) -> None:
    name = make("brittle", Timeout=1)
    assert "timed out after 1.00 seconds" in ask(client, name, {"s": 30})[0]["errorMessage"]
    assert ask(client, name, {"die": True})[0]["errorType"] == "Runtime.ExitError"
    assert ask(client, name)[0]["name"] == "brittle"
    assert "Runtime.ExitError" in ask(client, make("broken"))[0]["errorType"]


def test_a_version_keeps_its_image_and_environment_and_its_number_is_its_own(
    client: Any, make: Callable[..., str], builds: Aws, tmp_path: Path
) -> None:
    name = make("versioned")
    other = {**images.SMALL, "Dockerfile": images.SMALL["Dockerfile"].replace("hello", "hullo")}
    built = images.build(builds, images.context(tmp_path, "other", other), "other")
    assert built["buildStatus"] == "SUCCEEDED", images.said(builds, built)
    first = client.publish_version(FunctionName=name)["Version"]
    assert client.publish_version(FunctionName=name)["Version"] == first, "nothing has changed"
    client.update_function_code(FunctionName=name, ImageUri=images.uri(builds, "other"))
    client.update_function_configuration(FunctionName=name, Environment={"Variables": {"NAME": "later"}})
    second = client.publish_version(FunctionName=name)["Version"]
    assert ask(client, name, Qualifier=first)[0]["greeting"] == "hello"
    told = ask(client, name, Qualifier=second)[0]
    assert (told["greeting"], told["name"]) == ("hullo", "later")
    client.delete_function(FunctionName=name, Qualifier=first)
    client.update_function_configuration(FunctionName=name, Environment={"Variables": {"NAME": "last"}})
    third = client.publish_version(FunctionName=name)["Version"]
    assert (first, second, third) == ("1", "2", "3")
    assert [ask(client, name, Qualifier=one)[0]["name"] for one in (second, third)] == ["later", "last"]
    found = client.get_function(FunctionName=name, Qualifier=third)["Code"]
    assert found["ResolvedImageUri"] == images.uri(builds, "other")


def test_who_comes_too_late_changes_nothing(client: Any, make: Callable[..., str]) -> None:
    name = make("raced")
    seen = client.get_function_configuration(FunctionName=name)["RevisionId"]
    client.update_function_configuration(
        FunctionName=name, Environment={"Variables": {"NAME": "mine"}}, RevisionId=seen
    )
    for change in (
        lambda: client.update_function_configuration(FunctionName=name, Timeout=9, RevisionId=seen),
        lambda: client.publish_version(FunctionName=name, RevisionId=seen),
    ):
        with pytest.raises(ClientError, match="PreconditionFailed"):
            change()
    now = client.get_function_configuration(FunctionName=name)
    assert (now["Timeout"], now["Environment"]["Variables"]["NAME"]) == (20, "mine")
    assert client.publish_version(FunctionName=name, RevisionId=now["RevisionId"])["Version"] == "1"


def test_a_url_answers(client: Any, make: Callable[..., str]) -> None:
    name = make("open")
    client.publish_version(FunctionName=name)
    client.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    url = client.create_function_url_config(FunctionName=name, Qualifier="live", AuthType="NONE")["FunctionUrl"]
    with urllib.request.urlopen(url + "predict?a=%20b", data=b'{"x": 2}') as answer:
        assert json.load(answer)["name"] == "open"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url, data=b'{"status": 422}')
    assert (refused.value.code, json.load(refused.value)["error"]) == (422, "as asked")


def test_without_the_adapter_it_asks_the_runtime_api(
    client: Any, make: Callable[..., str], builds: Aws, tmp_path: Path
) -> None:
    files = {"Dockerfile": 'FROM python:3.12\nCOPY loop.py /loop.py\nCMD ["none"]\n', "loop.py": LOOP}
    assert images.build(builds, images.context(tmp_path, "loop", files), "loop")["buildStatus"] == "SUCCEEDED"
    name = make(
        "looping", Code={"ImageUri": images.uri(builds, "loop")}, ImageConfig={"Command": ["python", "/loop.py"]}
    )
    said = json.loads(client.invoke(FunctionName=name, Payload=b'{"a": "\xc3\xa9"}')["Payload"].read())
    assert said["event"] == {"a": "é"}
    assert "[$LATEST]" in said["stream"]


def test_an_image_that_is_not_there_is_refused(client: Any, make: Callable[..., str], builds: Aws) -> None:
    for uri in (f"{images.ACCOUNT}/{images.REPOSITORY}:none", f"{images.ACCOUNT}/none:1", "docker.io/library/python:3"):
        with pytest.raises(ClientError, match="InvalidParameterValue"):
            make("absent", Code={"ImageUri": uri})
    builds.ecr.create_repository(repositoryName="foreign")
    manifest = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": {}})
    builds.ecr.put_image(repositoryName="foreign", imageManifest=manifest, imageTag="1")
    name = make("foreign", Code={"ImageUri": f"{images.ACCOUNT}/foreign:1"})
    with pytest.raises(ClientError, match="was not built here"):
        ask(client, name)
