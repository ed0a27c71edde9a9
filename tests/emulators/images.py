"""The environment image of the conformance suite's bento, built by the emulated CodeBuild, and bentos that run in it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ekiben as ek
from ekiben import packing
from ekiben.packing.image import BUILDSPEC
from tests.waiting import until

# A server of the standard library alone. What it is asked shows in its log; who it is, in its answer.
SMALL = {
    "Dockerfile": """\
FROM public.ecr.aws/docker/library/python:3.12-slim
COPY --from=public.ecr.aws/awsguru/aws-lambda-adapter:0.9.1 /lambda-adapter /opt/extensions/lambda-adapter
COPY server.py /opt/server.py
ENV GREETING=hello
USER 65532:65532
ENTRYPOINT ["python", "/opt/server.py"]
CMD ["alone"]
""",
    "server.py": """\
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200, {})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        print("asked", self.path, json.dumps(asked), flush=True)
        time.sleep(asked.get("s", 0))
        if "status" in asked:
            return self.answer(asked["status"], {"error": "as asked"})
        if asked.get("die"):
            os._exit(9)
        self.answer(200, {"name": os.environ.get("NAME"), "greeting": os.environ["GREETING"], "pid": os.getpid(),
                          "words": sys.argv[1:], "accept": self.headers.get("Accept"), "mine": model()})

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Amzn-SageMaker-Custom-Attributes", self.headers.get("X-Amzn-SageMaker-Custom-Attributes", ""))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

def model():
    place = os.path.join(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"), "model", "model.txt")
    return open(place).read() if os.path.exists(place) else ""

if os.environ.get("NAME") == "broken":
    sys.exit("I do not start")
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
""",
}

BENTO = Path(__file__).parents[1] / "rigs" / "project" / "bentos" / "tiny"
BUCKET, PROJECT, REPOSITORY = "predictions", "images", "tiny"
ACCOUNT = "123456789012.dkr.ecr.us-east-1.amazonaws.com"


def role(aws: Any, name: str, service: str) -> str:
    """A role that the service may assume; its ARN."""
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": f"{service}.amazonaws.com"}}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    return str(aws.iam.create_role(RoleName=name, AssumeRolePolicyDocument=document)["Role"]["Arn"])


def prepare(aws: Any) -> None:
    """A bucket, a repository, and a project that builds images into it."""
    aws.s3.create_bucket(Bucket=BUCKET)
    aws.ecr.create_repository(repositoryName=REPOSITORY, imageTagMutability="IMMUTABLE")
    aws.codebuild.create_project(
        name=PROJECT, serviceRole=role(aws, "builder", "codebuild"), artifacts={"type": "NO_ARTIFACTS"},
        source={"type": "S3", "location": f"{BUCKET}/none"},
        environment={
            "type": "LINUX_CONTAINER", "image": "aws/codebuild/amazonlinux-x86_64-standard:5.0",
            "computeType": "BUILD_GENERAL1_SMALL", "privilegedMode": True,
        },
        logsConfig={"cloudWatchLogs": {"status": "ENABLED", "groupName": "/builds"}},
    )  # fmt: skip


def start(aws: Any, context: Path, tag: str) -> str:
    """Start the build of a context; its id."""
    aws.s3.upload_file(str(context), BUCKET, f"code/{context.name}")
    started = aws.codebuild.start_build(
        projectName=PROJECT, sourceLocationOverride=f"{BUCKET}/code/{context.name}",
        environmentVariablesOverride=[{"name": "IMAGE", "value": f"{ACCOUNT}/{REPOSITORY}:{tag}"}],
    )["build"]  # fmt: skip
    assert started["buildStatus"] == "IN_PROGRESS"
    return str(started["id"])


def build(aws: Any, context: Path, tag: str) -> dict[str, Any]:
    """Build a context; the build when it has ended."""
    return over(aws, start(aws, context, tag))


def over(aws: Any, id: str) -> dict[str, Any]:
    """A build when it has ended."""

    def ended() -> dict[str, Any]:
        found: dict[str, Any] = aws.codebuild.batch_get_builds(ids=[id])["builds"][0]
        return found if found["buildComplete"] else {}

    return dict(until(ended, "the build ends"))


def context(folder: Path, name: str, files: Mapping[str, str]) -> Path:
    """A build context of these files, with the buildspec of the environment images."""
    with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
        for path, text in {"buildspec.yml": BUILDSPEC, **files}.items():
            archive.writestr(path, text)
    return folder / f"{name}.zip"


def uri(aws: Any, tag: str) -> str:
    """Of the image with this tag, by its digest."""
    (found,) = aws.ecr.describe_images(repositoryName=REPOSITORY, imageIds=[{"imageTag": tag}])["imageDetails"]
    return f"{ACCOUNT}/{REPOSITORY}@{found['imageDigest']}"


def said(aws: Any, build: dict[str, Any]) -> str:
    """Its log."""
    where = build["logs"]
    events = aws.logs.get_log_events(logGroupName=where["groupName"], logStreamName=where["streamName"])["events"]
    return "\n".join(event["message"] for event in events)


def version(aws: Any, folder: Path, number: int, slope: float | None) -> ek.ModelVersion:
    """A bento with a model of that slope, in the bucket; without a slope one that does not start."""
    model = folder / f"model-{number}"
    model.mkdir()
    (model / "model.json").write_text("not JSON" if slope is None else json.dumps({"slope": slope}))
    template = packing.template(BENTO)
    bento = packing.pack(template.path, model, {}, sha256=template.sha256, into=folder)
    aws.s3.upload_file(str(bento.path), BUCKET, f"bentos/{bento.sha256}.tar")
    return ek.ModelVersion(
        model="tiny", version=number, key=f"run-{number}", digest=bento.sha256, state="approved",
        bento_uri=f"s3://{BUCKET}/bentos/{bento.sha256}.tar", created_at="2026-01-01T00:00:00Z", created_by="ann",
    )  # fmt: skip
