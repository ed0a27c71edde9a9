"""Whole runs: the run face on one side, the container's supervisor on the other, and an emulated SageMaker between them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ekiben as ek
from ekiben import packing
from ekiben.aws import declared
from ekiben.aws.training import Training
from ekiben.testing import EmulatedAws
from tests.waiting import until

from .conftest import SPEC, platform

JOB = Path(__file__).parents[1] / "rigs" / "project" / "training_jobs" / "tiny"
ROLE = f"trainer-{uuid.uuid4().hex[:8]}"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "sagemaker.amazonaws.com"}}],
}


@pytest.fixture(scope="module")
def client(emulated_aws_session: EmulatedAws) -> Callable[[str], Any]:
    return emulated_aws_session.client


@pytest.fixture(scope="module")
def lake(client: Callable[[str], Any]) -> str:
    client("iam").create_role(RoleName=ROLE, AssumeRolePolicyDocument=json.dumps(TRUST))
    bucket = f"lake-{uuid.uuid4().hex[:8]}"
    client("s3").create_bucket(Bucket=bucket)
    client("s3").put_object(Bucket=bucket, Key="points/a.jsonl", Body=b'{"x": 1, "y": 3}\n{"x": 2, "y": 6}\n')
    return bucket


@pytest.fixture
def make(lake: str, library: packing.Bundle, client: Callable[[str], Any]) -> Callable[..., Training]:
    def made(source: Path = JOB, **spec: Any) -> Training:
        code = packing.bundle(source)
        for bundle in (code, library):
            client("s3").upload_file(str(bundle.path), lake, f"code/{bundle.sha256}.tar")
        facts = {
            "region": "us-east-1", "storage_uri": f"s3://{lake}", "spec": {**SPEC, **spec},
            "role_arn": "arn:aws:iam::123456789012:role/" + ROLE, "image_uri": "1.dkr.ecr.us-east-1.amazonaws.com/x",
            "instance_type": "ml.m5.large", "code_uri": f"s3://{lake}/code/{code.sha256}.tar", "code_sha256": code.sha256,
            "library_uri": f"s3://{lake}/code/{library.sha256}.tar", "library_sha256": library.sha256,
            "input_uris": {"points": f"s3://{lake}/points/"},
        }  # fmt: skip
        part = ek.Part(name="tiny", kind="training", provider="aws", ref="", facts=facts)
        return Training(part, platform(part))

    return made


def ended(training: Training, id: str) -> ek.Run:
    return until(lambda: run if (run := training.run(id)).ended else None, "the run ends")


def id() -> str:
    return f"run-{uuid.uuid4().hex[:8]}"


def test_a_run_from_submission_to_model(make: Callable[..., Training], client: Callable[[str], Any], lake: str) -> None:
    training = make()
    job = ek.Job(id=id(), params={"scale": 2.0})
    assert training.submit(job).state in ("pending", "running")
    run = ended(training, job.id)
    assert (run.state, run.metrics, run.params, run.attempts) == (
        "succeeded",
        {"slope": 6.0, "points": 2.0},
        {"scale": 2.0},
        1,
    )
    key = f"{run.model_uri}model.json".removeprefix(f"s3://{lake}/")
    assert json.loads(client("s3").get_object(Bucket=lake, Key=key)["Body"].read())["slope"] == pytest.approx(6.0)
    assert run.lineage["inputs"]["points"]["files"][0]["uri"] == f"s3://{lake}/points/a.jsonl"
    assert run.lineage["inputs"]["points"]["rows"] == 2
    assert run.submitted_at <= run.started_at <= run.ended_at
    assert training.submit(job) == run
    assert any("read 2 points" in line for line in training.logs(run.id))
    log = client("s3").get_object(Bucket=lake, Key=run.log_uri.removeprefix(f"s3://{lake}/"))["Body"].read()
    assert b"read 2 points" in log


def test_a_failure_is_told(make: Callable[..., Training]) -> None:
    training, job = make(), ek.Job(id=id(), params={"fail": "row 3 has no y: 駅弁"})
    training.submit(job)
    run = ended(training, job.id)
    assert (run.state, run.reason) == ("failed", "row 3 has no y: 駅弁")


def test_a_cancelled_run_has_stopped_and_kept_its_checkpoint(
    make: Callable[..., Training], client: Callable[[str], Any], lake: str
) -> None:
    training, job = make(), ek.Job(id=id(), params={"steps": 1000, "step_s": 0.05})
    training.submit(job)
    until(lambda: training.run(job.id).metrics, "it has told of a step")
    assert training.cancel(job.id).state == "cancelled"
    kept = client("s3").get_object(Bucket=lake, Key=f"runs/tiny/{job.id}/checkpoints/terminated.txt")
    assert kept["Body"].read() == b"yes"


def test_two_nodes_know_each_other_and_end_together(make: Callable[..., Training]) -> None:
    training = make(nodes=2)
    good, bad = ek.Job(id=id()), ek.Job(id=id(), params={"fail_rank": 1, "steps": 1000, "step_s": 0.05})
    training.submit(good)
    training.submit(bad)
    assert ended(training, good.id).state == "succeeded"
    lines = list(training.logs(good.id))
    assert {rank for rank in (0, 1) if any(f"on node {rank}" in line for line in lines)} == {0, 1}
    assert any(line.startswith("[1] ") for line in lines)
    failed = ended(training, bad.id)
    assert (failed.state, failed.reason) == ("failed", "rank 1 gives up")


def test_a_folder_that_was_written_for_modeltrainer_trains_as_it_is(
    make: Callable[..., Training], client: Callable[[str], Any]
) -> None:
    training = make(source=Path(__file__).parent / "trainer", arguments=True, params={"scale": 2.0, "label": "駅 弁"})
    good, bad = ek.Job(id=id()), ek.Job(id=id(), params={"fail": True, "label": "it"})
    training.submit(good)
    training.submit(bad)
    run, failed = ended(training, good.id), ended(training, bad.id)
    assert run.state == "succeeded", list(training.logs(good.id))
    assert "trained by 駅 弁" in list(training.logs(good.id))
    bucket, _, key = run.output_uri.removeprefix("s3://").partition("/")
    there = {
        one["Key"].rpartition("/")[2] for one in client("s3").list_objects_v2(Bucket=bucket, Prefix=key)["Contents"]
    }
    assert {"slope.json", "rows.txt"} <= there, "one from /opt/ml/output/data, one from SM_OUTPUT_DATA_DIR"
    assert (failed.state, failed.reason) == ("failed", "it: told to fail"), "from /opt/ml/output/failure"


def test_model_packages_go_with_their_groups_but_not_those_of_others(client: Callable[[str], Any]) -> None:
    sagemaker, groups = client("sagemaker"), f"models-{uuid.uuid4().hex[:8]}"
    for group in (f"{groups}-tiny", f"{groups}-other", f"{groups}x-tiny", f"old-{groups}-tiny"):
        sagemaker.create_model_package_group(ModelPackageGroupName=group)
        for _ in range(2):
            sagemaker.create_model_package(ModelPackageGroupName=group)
    packages = declared.KINDS["Packages"]
    state = declared.put(packages, "urn", {"region": "us-east-1", "groups": groups})
    for _ in range(2):
        declared.delete(packages, "urn", state)
        told = sagemaker.list_model_package_groups(NameContains=groups)["ModelPackageGroupSummaryList"]
        assert {one["ModelPackageGroupName"] for one in told} == {f"{groups}x-tiny", f"old-{groups}-tiny"}
    kept = sagemaker.list_model_packages(ModelPackageGroupName=f"old-{groups}-tiny")["ModelPackageSummaryList"]
    assert len(kept) == 2
