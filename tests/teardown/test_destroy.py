"""destroy on AWS: running jobs are cancelled, what is full is emptied, and what is left is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ekiben.emulators import aws, stacks
from ekiben.testing import EmulatedAws
from tests.waiting import until

JOB = Path(__file__).parents[1] / "rigs" / "project" / "training_jobs" / "tiny"
CONFIG = "config:\n  ekiben:provider: aws\n  ekiben:emulate: true\n  aws:region: us-east-1\n"
PROGRAM = """
import ekiben as ek

cloud = ek.provider()
lake = cloud.Storage("lake")
kept = cloud.Storage("kept", ek.StorageSpec(retain=True))
models = cloud.Registry("models", storage=lake)
tiny = cloud.Training("tiny", ek.TrainingSpec(source="training_jobs/tiny", timeout_s=600, inputs={"points": "lake/points/"},
    params={"scale": 1.0}, resources=ek.Resources(memory_mib=512), grace_s=1), storage=lake)
ek.export(lake, kept, models, tiny)
"""
LEFT = 7


class Project:
    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "Pulumi.yaml").write_text("name: shop\nruntime: python\nmain: infra/\n")
        (root / "Pulumi.dev.yaml").write_text(CONFIG)
        (root / "infra").mkdir()
        (root / "infra" / "__main__.py").write_text(PROGRAM)
        shutil.copytree(JOB, root / "training_jobs" / "tiny")

    def __call__(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "ekiben.cli", *words], cwd=self.root, text=True, capture_output=True, timeout=240,
            env={k: v for k, v in os.environ.items() if not k.startswith(("EKIBEN_", "PULUMI_", "AWS_"))},
        )  # fmt: skip
        assert done.returncode == code, f"ekiben {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @property
    def cloud(self) -> EmulatedAws:
        server = stacks.found(self.root)
        assert server is not None
        return EmulatedAws(server)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    yield Project(tmp_path.resolve())
    aws.stop(stacks.state_dir(tmp_path.resolve()))


@pytest.mark.engine
def test_what_is_left_is_told_and_then_nothing_is(project: Project) -> None:
    project("up")
    points = project.root / "a.jsonl"
    points.write_text('{"x": 1, "y": 3}\n')
    project("put", str(points), "lake/points/")
    project("put", str(points), "kept/points/")
    project("train", "tiny", "--param", "steps=1000", "--param", "step_s=0.1")
    cloud = project.cloud
    (job,) = cloud.sagemaker.list_training_jobs()["TrainingJobSummaries"]
    record = json.loads((project.root / ".ekiben" / "dev" / "platform.json").read_text())
    group = record["parts"]["models"]["facts"]["model_groups"] + "-tiny"
    cloud.sagemaker.create_model_package_group(ModelPackageGroupName=group)
    tags = {"ekiben:platform": "shop", "ekiben:stack": "dev"}
    cloud.sqs.create_queue(QueueName="forgotten", tags=tags)
    until_running(cloud, job["TrainingJobName"])

    said = json.loads(project("destroy", "--yes", "--json", code=LEFT))
    left = {item["name"]: item for item in said["left"]}
    assert set(left) == {"forgotten"}, "the model packages have gone with their registry"
    assert left["forgotten"]["tags"] == tags
    assert (
        cloud.sagemaker.describe_training_job(TrainingJobName=job["TrainingJobName"])["TrainingJobStatus"] == "Stopped"
    )
    buckets = [bucket["Name"] for bucket in cloud.s3.list_buckets()["Buckets"]]
    assert [name.partition("-")[0] for name in buckets] == ["kept"], "a full bucket goes, unless it is to be retained"

    listed = json.loads(project("inventory", "--json", code=LEFT))[0]
    assert {item["name"] for item in listed["left"] if item["kind"] == "cloud"} == set(left)
    assert [item["name"] for item in listed["items"] if item["retained"]] == buckets
    cloud.sqs.delete_queue(QueueUrl=cloud.sqs.get_queue_url(QueueName="forgotten")["QueueUrl"])
    project("destroy", "--yes")
    assert "nothing left but what was to be retained (1)" in project("inventory")


def until_running(cloud: EmulatedAws, job: str) -> None:
    described = cloud.sagemaker.describe_training_job
    until(lambda: described(TrainingJobName=job)["SecondaryStatus"] == "Training", f"the job {job} trains")
