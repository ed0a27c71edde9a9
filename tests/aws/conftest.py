"""AWS as moto's server makes it up, in this process, and a platform that stands on it. Real clients, real requests."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

import ekiben as ek
from ekiben import packing
from ekiben.aws.runtime import Endpoint
from ekiben.emulators.aws import versions
from ekiben.emulators.aws.images import Images
from tests.fakes.aws import Edge

REGION = "eu-west-1"
ROLE = "arn:aws:iam::123456789012:role/ekiben-training"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Edge]]:
    """The endpoint and its edge."""
    versions.keep(Images(tmp_path_factory.mktemp("images") / "there"))
    made = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    made.start()
    assert made._server is not None
    edge = Edge(made._server.app)
    made._server.app = edge  # type: ignore[assignment]
    host, port = made.get_host_and_port()
    yield f"http://{host}:{port}", edge
    made.stop()


@pytest.fixture
def aws(server: tuple[str, Edge], monkeypatch: pytest.MonkeyPatch) -> str:
    """The endpoint; the environment names it, as a user's does."""
    credentials(monkeypatch, server[0])
    return server[0]


@pytest.fixture
def edge(aws: str, server: tuple[str, Edge]) -> Edge:
    server[1].clear()
    return server[1]


def credentials(env: pytest.MonkeyPatch, url: str) -> None:
    env.setenv("AWS_ENDPOINT_URL", url)
    env.setenv("AWS_ACCESS_KEY_ID", "testing")
    env.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    env.delenv("AWS_PROFILE", raising=False)
    env.delenv("AWS_REGION", raising=False)
    env.delenv("AWS_DEFAULT_REGION", raising=False)


@pytest.fixture
def client(aws: str) -> Callable[[str], Any]:
    """boto3's own client of a service: what stands outside and looks."""
    import boto3

    return lambda service: boto3.client(service, region_name=REGION, endpoint_url=aws)


@pytest.fixture
def bucket(client: Callable[[str], Any]) -> str:
    name = f"lake-{uuid.uuid4().hex[:12]}"
    client("s3").create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    return name


@pytest.fixture
def bind(request: pytest.FixtureRequest, bucket: str, edge: Edge) -> Callable[..., Any]:
    """The kind of endpoint of the module (KIND) as the program describes it: its own `facts` for a name, and what all have.

    A fact that is given is as a later `up` has it.
    """
    name, kind, own = f"api-{uuid.uuid4().hex[:8]}", request.module.KIND, request.module.facts

    def made(**over: Any) -> Any:
        facts = {
            "region": REGION, "image_uri": "1.dkr.ecr.us-east-1.amazonaws.com/serve", "model": "tiny@champion",
            "storage_uri": f"s3://{bucket}", "template_uri": f"s3://{bucket}/t", "template_sha256": "0" * 64,
            **own(name), **over,
        }  # fmt: skip
        part = ek.Part(name="tiny-api", kind="endpoint", provider="aws", ref="", facts=facts)
        bound = Endpoint(part, platform(part))
        assert isinstance(bound, kind)
        return bound

    return made


@pytest.fixture
def endpoint(bind: Callable[..., Any]) -> Any:
    return bind()


@pytest.fixture
def make(client: Callable[[str], Any], bucket: str) -> Callable[[int], ek.ModelVersion]:
    """A version whose bento lies in the bucket."""

    def made(number: int) -> ek.ModelVersion:
        data = f"bento {number}".encode()
        digest = hashlib.sha256(data).hexdigest()
        client("s3").put_object(Bucket=bucket, Key=f"bentos/{digest}.tar", Body=data)
        return ek.ModelVersion(
            model="tiny", version=number, key=f"run-{number}", digest=digest, bento_uri=f"s3://{bucket}/bentos/{digest}.tar",
            created_at="2026-01-01T00:00:00Z", created_by="ann", state="approved",
            sample={"route": "predict", "request": {"x": 1}, "response": {"digest": digest, "x": 1}},
        )  # fmt: skip

    return made


SPEC: dict[str, Any] = ek.TrainingSpec(
    source="training_jobs/tiny", inputs={"points": "lake/points/"}, params={"scale": 1.0}, timeout_s=60, grace_s=1
).model_dump(mode="json")


def training_part(bucket: str, library: packing.Bundle, name: str = "tiny", **over: Any) -> ek.Part:
    """A training as the deploy face describes it, with fields of its spec over the usual ones."""
    facts = {
        "region": REGION, "storage_uri": f"s3://{bucket}", "spec": {**SPEC, **over.pop("spec", {})}, "role_arn": ROLE,
        "image_uri": "763104351884.dkr.ecr.eu-west-1.amazonaws.com/pytorch-training:2.10.0-cpu-py313",
        "instance_type": "ml.m5.large", "code_uri": f"s3://{bucket}/code/{'0' * 64}.tar", "code_sha256": "0" * 64,
        "library_uri": f"s3://{bucket}/code/{library.sha256}.tar", "library_sha256": library.sha256,
        "code": {"commit": "abc", "dirty": False}, "input_uris": {"points": f"s3://{bucket}/points/"},
    }  # fmt: skip
    return ek.Part(name=name, kind="training", provider="aws", ref="tiny", facts={**facts, **over})


@pytest.fixture(scope="session")
def library() -> packing.Bundle:
    return packing.job_library("aws/container.py")


def platform(*parts: ek.Part, stack: str = "test") -> ek.Platform:
    return ek.Platform(project="demo", stack=stack, parts={part.name: part for part in parts})


def put_json(client: Callable[[str], Any], bucket: str, key: str, value: Any) -> None:
    client("s3").put_object(Bucket=bucket, Key=key, Body=json.dumps(value).encode())


def source(name: str) -> str:
    return (Path(ek.__file__).parent / "aws" / name).read_text(encoding="utf-8")
