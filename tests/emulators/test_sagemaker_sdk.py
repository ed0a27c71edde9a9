"""What Ekiben makes opens in SageMaker's own SDK, and the stock images are those that the SDK names."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ekiben as ek
from ekiben import packing
from ekiben.aws.registry import Registry
from ekiben.aws.training import Training
from ekiben.aws.variants import Endpoint
from ekiben.testing import EmulatedAws as Aws
from tests import sdk
from tests.waiting import until

from . import images

ROOT = Path(__file__).parents[2]
TABLE = json.loads((ROOT / "providers" / "ekiben" / "aws" / "stock.json").read_text())


@pytest.fixture(autouse=True)
def _environment(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in aws.environment.items():
        monkeypatch.setenv(name, value)


def bound(kind: Callable[[ek.Part, ek.Platform], Any], name: str, **facts: Any) -> Any:
    part = ek.Part(name=name, kind=kind.kind, provider="aws", ref="", facts={"region": "us-east-1", **facts})  # type: ignore[attr-defined]
    return kind(part, ek.Platform(project="demo", stack="test", parts={name: part}))


@pytest.fixture
def lake() -> str:
    """A name that the account does not have, for all that a try makes: the test can be tried again."""
    return f"opened-{secrets.token_hex(3)}"


def trained(aws: Aws, lake: str) -> tuple[ek.Run, str]:
    """A run, and the name of its job."""
    code, library = (
        packing.bundle(ROOT / "tests/rigs/project/training_jobs/tiny"),
        packing.job_library("aws/container.py"),
    )
    for bundle in (code, library):
        aws.s3.upload_file(str(bundle.path), lake, f"code/{bundle.sha256}.tar")
    aws.s3.put_object(Bucket=lake, Key="points/a.jsonl", Body=b'{"x": 1, "y": 3}\n')
    spec = ek.TrainingSpec(source="x", inputs={"points": "lake/points/"}, params={"scale": 2.0}).model_dump(mode="json")
    training: Training = bound(
        Training, "tiny", spec=spec, storage_uri=f"s3://{lake}", image_uri="1.dkr.ecr.us-east-1.amazonaws.com/x",
        instance_type="ml.m5.large", role_arn=images.role(aws, f"{lake}-trainer", "sagemaker"), code_sha256=code.sha256,
        code_uri=f"s3://{lake}/code/{code.sha256}.tar", library_uri=f"s3://{lake}/code/{library.sha256}.tar",
        library_sha256=library.sha256, input_uris={"points": f"s3://{lake}/points/"},
    )  # fmt: skip
    training.submit(ek.Job(id=lake))
    run = until(lambda: run if (run := training.run(lake)).ended else None, "the run ends")
    (job,) = [
        one["TrainingJobName"] for one in aws.sagemaker.list_training_jobs(NameContains=lake)["TrainingJobSummaries"]
    ]
    return run, job


@pytest.fixture
def version(lake: str) -> ek.ModelVersion:
    digest = hashlib.sha256(b"bento").hexdigest()
    return ek.ModelVersion(
        model="tiny", version=0, key="run-1", digest=digest, bento_uri=f"s3://{lake}/bentos/{digest}.tar", created_at="",
        created_by="ann", metrics={"auc": 0.9}, sample={"route": "predict", "request": {}, "response": {}},
    )  # fmt: skip


def test_what_ekiben_makes_opens_in_the_sdk(builds: Aws, small: str, lake: str, version: ek.ModelVersion) -> None:
    aws = builds
    aws.s3.create_bucket(Bucket=lake)
    aws.s3.put_object(Bucket=lake, Key=f"bentos/{version.digest}.tar", Body=b"bento")
    aws.events.create_event_bus(Name=lake)
    run, job = trained(aws, lake)
    assert run.state == "succeeded"
    registry: Registry = bound(
        Registry, "models", uri=f"s3://{lake}/registry/models", bus=lake, model_groups=lake, image_uri=small
    )
    made = registry.register(version)
    (package,) = aws.sagemaker.list_model_packages(ModelPackageGroupName=f"{lake}-tiny")["ModelPackageSummaryList"]
    endpoint: Endpoint = bound(
        Endpoint, "tiny-api", endpoint=f"{lake}-api", role_arn=images.role(aws, f"{lake}-host", "sagemaker"), image_uri=small,
        instance_type="ml.g6.xlarge", instances=1, model="tiny@champion", storage_uri=f"s3://{lake}",
        template_uri=f"s3://{lake}/t", template_sha256="0" * 64,
    )  # fmt: skip
    revision = endpoint.deploy(made)
    endpoint.shift({revision.id: 100.0})
    question = {"job": job, "package": package["ModelPackageArn"], "endpoint": f"{lake}-api"}
    told = sdk.ask(question, aws.environment)
    status, arn, model, has_points, params = told["opened"]["job"]
    assert (status, has_points, params) == ("Completed", True, {"scale": "2.0"})
    assert arn.endswith(f":training-job/{job}")
    assert model.startswith(f"s3://{lake}/")
    number, approval, properties = told["opened"]["package"]
    assert (number, approval) == (1, "PendingManualApproval")
    assert version.digest in json.dumps(properties)
    assert told["opened"]["group"].endswith(f":model-package-group/{lake}-tiny")
    assert told["opened"]["endpoint"] == ["InService", [revision.id]]
    assert told["opened"]["invoked"][0] == revision.id
    # What was decided there.
    registry.adopt("tiny")
    assert registry.version("tiny:1").state == "approved"
    assert told["images"] == TABLE["images"], "make the table anew: docs/stock.py says how"


def test_the_instance_types_are_those_of_botocore_and_moto() -> None:
    spec = importlib.util.spec_from_file_location("stock", ROOT / "docs" / "stock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert json.loads(json.dumps(module.instances())) == TABLE["instances"]
