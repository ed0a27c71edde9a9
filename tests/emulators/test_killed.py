"""Nothing that the emulated AWS has started outlives it, however it ends; and nothing of it is in the way of the next."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ekiben.emulators.aws import ensure, stop
from tests.waiting import alive, until

from . import images
from .conftest import Aws
from .test_functions import call, make, value
from .test_training import lines, submit


def killed(aws: Aws) -> None:
    os.kill(aws.server.pid, signal.SIGKILL)


def stopped(aws: Aws) -> None:
    stop(aws.server.state_dir)


def hosted(aws: Aws, folder: Path) -> int:
    """An endpoint of SageMaker; the number of its process."""
    images.prepare(aws)
    images.build(aws, images.context(folder, "small", images.SMALL), "small")
    role = images.role(aws, "hosting", "sagemaker")
    image = {"Image": f"{images.ACCOUNT}/{images.REPOSITORY}:small"}
    aws.sagemaker.create_model(ModelName="m", ExecutionRoleArn=role, PrimaryContainer=image)
    variant = {"VariantName": "v", "ModelName": "m", "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    aws.sagemaker.create_endpoint_config(EndpointConfigName="e", ProductionVariants=[variant])
    aws.sagemaker.create_endpoint(EndpointName="e", EndpointConfigName="e")
    until(lambda: aws.sagemaker.describe_endpoint(EndpointName="e")["EndpointStatus"] == "InService")
    answer = aws.sagemaker_runtime.invoke_endpoint(EndpointName="e", Body=b"{}")
    return int(json.loads(answer["Body"].read())["pid"])


@pytest.mark.parametrize("end", [killed, stopped])
def test_functions_jobs_and_endpoints_end_with_it(tmp_path: Path, end: Callable[[Aws], None]) -> None:
    aws = Aws(ensure(tmp_path))
    try:
        make(aws, "one", "import os\ndef handler(event, context): return os.getpid()\n")
        aws.s3.create_bucket(Bucket="train")
        for key in ("points/a", "code/b"):
            aws.s3.put_object(Bucket="train", Key=key, Body=b"x")
        role = "arn:aws:iam::123456789012:role/runner"
        job = submit(
            aws,
            "train",
            "trap '' TERM; echo $$; while :; do sleep 0.1; done",
            RoleArn=role,
        )
        pids = [value(call(aws, "one")), int(until(lambda: lines(aws, job))[0]), hosted(aws, tmp_path)]
        assert all(map(alive, pids))
        end(aws)
        until(lambda: not any(map(alive, pids)))
        again = Aws(ensure(tmp_path))
        assert again.server.url == aws.server.url
        assert again.sagemaker.list_training_jobs()["TrainingJobSummaries"] == []
        make(again, "one", "def handler(event, context): return 2\n")
        assert value(call(again, "one")) == 2
    finally:
        stop(tmp_path)


def test_a_process_that_ended_between_two_calls_is_not_missed(aws: Aws) -> None:
    make(
        aws, "short",
        "import os, threading, time\n"
        "def handler(event, context):\n"
        "    if event: threading.Timer(0.1, os._exit, [1]).start()\n"
        "    return os.getpid()\n",
    )  # fmt: skip
    first = value(call(aws, "short", True))
    until(lambda: not alive(first))
    again = call(aws, "short", False)
    assert "FunctionError" not in again
    assert value(again) != first
