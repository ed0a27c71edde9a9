"""The emulated AWS as a process: started, found again, stopped; and what its edge adds to moto."""

from __future__ import annotations

import os
import signal
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from ekiben.emulators.aws import Server, ensure, policies, running, stop
from ekiben.emulators.aws.plugin.kind import Aws as Plugin
from ekiben.emulators.aws.plugin.s3 import empty
from ekiben.emulators.aws.plugin.table import KINDS
from ekiben.emulators.plugins.install import install
from ekiben.engine.pulumi_cli import Cli
from ekiben.errors import AccessDenied, AlreadyExists, SpecError, Unavailable

from .conftest import Aws


def identity(server: Server) -> str:
    client = boto3.client(
        "sts", endpoint_url=server.url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    return str(client.get_caller_identity()["Account"])


def test_it_is_started_found_again_and_stopped(tmp_path: Path) -> None:
    first = ensure(tmp_path)
    try:
        assert identity(first) == "123456789012"
        assert ensure(tmp_path) == first
        with pytest.raises(AlreadyExists, match="on port"):
            ensure(tmp_path, port=1)
        with pytest.raises(Unavailable, match="the port cannot be had"):
            ensure(tmp_path / "other", port=int(first.url.rpartition(":")[2]))
        # What is left of one that was killed is no obstacle, and the next one has its port.
        os.kill(first.pid, signal.SIGKILL)
        while running(tmp_path):
            pass
        second = ensure(tmp_path)
        assert (second.url, second.pid != first.pid) == (first.url, True)
    finally:
        stop(tmp_path)
    assert not running(tmp_path)
    stop(tmp_path)


def test_the_users_own_plugins_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    cli = Cli(path=Path("/nowhere/pulumi"), version="3.0.0", origin="path")
    for environ in ({}, {"PULUMI_HOME": str(tmp_path / ".pulumi")}):
        with pytest.raises(SpecError, match="your real stacks"):
            install(cli, environ, tmp_path, "aws")


def test_a_bucket_that_demands_tls_is_open_to_those_who_may(aws: Aws) -> None:
    aws.s3.create_bucket(Bucket="tls")
    deny = '{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*","Action":"s3:*","Resource":"*"%s}]}'
    aws.s3.put_bucket_policy(Bucket="tls", Policy=deny % ',"Condition":{"Bool":{"aws:SecureTransport":"false"}}')
    aws.s3.put_object(Bucket="tls", Key="k", Body=b"x")
    aws.s3.put_bucket_policy(Bucket="tls", Policy=deny % "")
    with pytest.raises(ClientError, match="403"):
        aws.s3.put_object(Bucket="tls", Key="k", Body=b"x")


@pytest.mark.parametrize(
    ("conditions", "holds"),
    [
        ({"StringEquals": {"a": "1"}}, True),
        ({"StringEquals": {"A": ["2", "1"]}}, True),
        ({"StringEquals": {"a": "2"}}, False),
        ({"StringEquals": {"b": "1"}}, False),
        ({"StringEqualsIfExists": {"b": "1"}}, True),
        ({"StringNotEquals": {"a": ["1", "2"]}}, False),
        ({"StringNotLike": {"b": "*"}}, True),
        ({"StringLike": {"c": "arn:aws:iam::*:role/?x[1]"}}, True),
        ({"Bool": {"d": True}, "Null": {"b": "true"}}, True),
        ({"Bool": {"d": True}, "Null": {"a": "true"}}, False),
        ({"ForAllValues:StringEquals": {"b": "1"}}, True),
    ],
)
def test_conditions_hold_as_iam_says(conditions: dict[str, dict[str, object]], holds: bool) -> None:
    values = {"a": "1", "c": "arn:aws:iam::1:role/yx[1]", "d": "true"}
    assert policies.hold(conditions, values) is holds


def test_an_operator_that_is_not_known_is_no_guess() -> None:
    with pytest.raises(ValueError, match="IpAddress"):
        policies.hold({"IpAddress": {"a": "10.0.0.0/8"}}, {"a": "10.0.0.1"})


def test_a_bucket_tells_that_its_events_go_to_eventbridge(aws: Aws) -> None:
    aws.s3.create_bucket(Bucket="told")
    assert "EventBridgeConfiguration" not in aws.s3.get_bucket_notification_configuration(Bucket="told")
    aws.s3.put_bucket_notification_configuration(
        Bucket="told", NotificationConfiguration={"EventBridgeConfiguration": {}}
    )
    assert "EventBridgeConfiguration" in aws.s3.get_bucket_notification_configuration(Bucket="told")


def test_a_bucket_with_more_versions_than_a_page_holds_is_deleted(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in aws.server.environment.items():
        monkeypatch.setenv(name, value)
    name = f"paged-{uuid.uuid4().hex[:6]}"
    aws.s3.create_bucket(Bucket=name)
    aws.s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    for _ in range(5):
        aws.s3.put_object(Bucket=name, Key="k", Body=b"")
    assert empty(aws.s3, name, at_once=2) == ["k"] * 5
    KINDS["aws:s3/bucket:Bucket"].delete(Plugin(aws.server.url, "us-east-1"), name, {"forceDestroy": True})
    with pytest.raises(ClientError, match="404"):
        aws.s3.head_bucket(Bucket=name)


def test_an_object_that_is_held_is_named(aws: Aws) -> None:
    name = f"held-{uuid.uuid4().hex[:6]}"
    aws.s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    aws.s3.put_object(
        Bucket=name, Key="ledger", Body=b"1", ObjectLockMode="COMPLIANCE",
        ObjectLockRetainUntilDate=datetime.now(UTC) + timedelta(days=1),
    )  # fmt: skip
    with pytest.raises(AccessDenied, match="'ledger' stays"):
        empty(aws.s3, name)


def test_a_bucket_whose_versioning_is_suspended_is_emptied(aws: Aws) -> None:
    s3 = aws.s3
    s3.create_bucket(Bucket="once")
    s3.put_bucket_versioning(Bucket="once", VersioningConfiguration={"Status": "Enabled"})
    for body in (b"1", b"2"):
        s3.put_object(Bucket="once", Key="k", Body=body)
    s3.delete_object(Bucket="once", Key="k")
    s3.put_bucket_versioning(Bucket="once", VersioningConfiguration={"Status": "Suspended"})
    told = s3.list_object_versions(Bucket="once")
    first = min(told["Versions"], key=lambda version: version["LastModified"])
    s3.delete_object(Bucket="once", Key="k", VersionId=first["VersionId"])
    assert len(s3.list_object_versions(Bucket="once")["Versions"]) == 1
    rest = [{"Key": "k", "VersionId": one["VersionId"]} for one in told["Versions"] + told["DeleteMarkers"]]
    assert "Errors" not in s3.delete_objects(Bucket="once", Delete={"Objects": rest})
    s3.delete_bucket(Bucket="once")
