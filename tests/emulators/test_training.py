"""Training jobs of the emulated AWS run their own command, and fail when it fails."""

from __future__ import annotations

import io
import json
import tarfile
import uuid
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.waiting import until

from .conftest import Aws

TRAIN = """
import json, os, pathlib, sys
base = pathlib.Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
rows = (base / "input/data/points/a.csv").read_text().split()
params = json.loads((base / "input/config/hyperparameters.json").read_text())
hosts = json.loads((base / "input/config/resourceconfig.json").read_text())
print("training on", rows, hosts["current_host"])
if params.get("fail"):
    (base / "output/failure").write_text(params["fail"])
    sys.exit(3)
(base / "checkpoints/step").write_text("1")
(base / "model" / hosts["current_host"]).write_text(params["scale"])
(base / "output/data/metrics.json").write_text(json.dumps({"rows": len(rows)}))
"""


@pytest.fixture(scope="module")
def bucket(aws: Aws) -> str:
    return prepared(aws)


def prepared(aws: Aws) -> str:
    """A bucket with data and code, and a role for jobs."""
    allow = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "sagemaker.amazonaws.com"}}
    aws.iam.create_role(
        RoleName="trainer", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [allow]})
    )
    aws.s3.create_bucket(Bucket="train")
    aws.s3.put_object(Bucket="train", Key="points/a.csv", Body=b"1 2 3")
    aws.s3.put_object(Bucket="train", Key="code/train.py", Body=TRAIN.encode())
    return "train"


def submit(aws: Aws, bucket: str, code: str = "", **over: Any) -> str:
    name = f"job-{uuid.uuid4().hex[:8]}"
    run = ["/bin/sh", "-c", 'exec python3 "${SAGEMAKER_BASE_DIR:-/opt/ml}/input/data/code/train.py"']
    channels = {"points": f"s3://{bucket}/points/", "code": f"s3://{bucket}/code/"}
    asked: dict[str, Any] = {
        "TrainingJobName": name, "RoleArn": "arn:aws:iam::123456789012:role/trainer",
        "AlgorithmSpecification": {
            "TrainingImage": "1.dkr.ecr.us-east-1.amazonaws.com/x", "TrainingInputMode": "File",
            "ContainerEntrypoint": ["/bin/sh", "-c", code] if code else run,
        },
        "InputDataConfig": [
            {"ChannelName": key, "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": uri}}}
            for key, uri in channels.items()
        ],
        "OutputDataConfig": {"S3OutputPath": f"s3://{bucket}/out"},
        "CheckpointConfig": {"S3Uri": f"s3://{bucket}/kept/{name}"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 10},
        "StoppingCondition": {"MaxRuntimeInSeconds": 600}, "HyperParameters": {"scale": "2"},
        "Environment": {"WORD": "w"},
    }  # fmt: skip
    aws.sagemaker.create_training_job(**{**asked, **over})
    return name


def ended(aws: Aws, name: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        job = aws.sagemaker.describe_training_job(TrainingJobName=name)
        return None if job["TrainingJobStatus"] in ("InProgress", "Stopping") else dict(job)

    found = until(look, f"the job {name} ends")
    assert found is not None
    return found


def lines(aws: Aws, name: str) -> list[str]:
    found = aws.logs.filter_log_events(logGroupName="/aws/sagemaker/TrainingJobs", logStreamNamePrefix=name)["events"]
    return [event["message"] for event in found if event["logStreamName"].startswith(name)]


def test_a_job_trains_and_leaves_its_model(aws: Aws, bucket: str) -> None:
    queue = aws.sqs.create_queue(QueueName="ends")["QueueUrl"]
    pattern = {"source": ["aws.sagemaker"], "detail": {"TrainingJobStatus": ["Completed"]}}
    aws.events.put_rule(Name="ends", EventPattern=json.dumps(pattern))
    aws.events.put_targets(Rule="ends", Targets=[{"Id": "q", "Arn": "arn:aws:sqs:us-east-1:123456789012:ends"}])
    name = submit(aws, bucket)
    job = ended(aws, name)
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Completed", "Completed"), job
    assert job["ModelArtifacts"] == {"S3ModelArtifacts": f"s3://train/out/{name}/output/model.tar.gz"}
    assert job["Environment"] == {"WORD": "w"}
    assert job["BillableTimeInSeconds"] >= 0
    archive = aws.s3.get_object(Bucket=bucket, Key=f"out/{name}/output/model.tar.gz")["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(archive)) as model:
        assert model.getnames() == ["algo-1"]
    assert aws.s3.get_object(Bucket=bucket, Key=f"kept/{name}/step")["Body"].read() == b"1"
    assert lines(aws, name) == ["training on ['1', '2', '3'] algo-1"]
    messages = aws.sqs.receive_message(QueueUrl=queue)["Messages"]
    assert json.loads(messages[0]["Body"])["detail"]["TrainingJobName"] == name


def test_a_job_that_fails_says_why(aws: Aws, bucket: str) -> None:
    job = ended(aws, submit(aws, bucket, HyperParameters={"fail": "no luck"}))
    assert (job["TrainingJobStatus"], job["FailureReason"]) == ("Failed", "AlgorithmError: no luck, exit code: 3")
    assert "ModelArtifacts" not in job
    nothing = [
        {"ChannelName": "c", "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://train/no"}}}
    ]
    assert "No S3 objects found" in ended(aws, submit(aws, bucket, InputDataConfig=nothing))["FailureReason"]
    with pytest.raises(ClientError, match="Could not assume role"):
        submit(aws, bucket, RoleArn="arn:aws:iam::123456789012:role/nobody")


def test_a_job_is_stopped_with_all_that_it_started(aws: Aws, bucket: str) -> None:
    code = (
        "base=${SAGEMAKER_BASE_DIR:-/opt/ml}; trap 'echo told; echo m >$base/model/m; exit 0' TERM; echo up; "
        "while :; do sleep 0.1; done"
    )
    name = submit(aws, bucket, code)
    described = aws.sagemaker.describe_training_job
    until(
        lambda: described(TrainingJobName=name)["SecondaryStatus"] == "Training" and lines(aws, name),
        "it trains and talks",
    )
    aws.sagemaker.stop_training_job(TrainingJobName=name)
    job = ended(aws, name)
    assert job["TrainingJobStatus"] == "Stopped"
    assert lines(aws, name) == ["up", "told"]
    assert job["ModelArtifacts"]["S3ModelArtifacts"].endswith("model.tar.gz")
    with pytest.raises(ClientError, match="is in status Stopped"):
        aws.sagemaker.stop_training_job(TrainingJobName=name)
    with pytest.raises(ClientError, match="ResourceInUse"):
        submit(aws, bucket, TrainingJobName=name)


def test_two_instances_see_each_other_and_make_one_model(aws: Aws, bucket: str) -> None:
    where = {"S3OutputPath": f"s3://{bucket}/two", "CompressionType": "NONE"}
    resources = {"InstanceType": "ml.m5.large", "InstanceCount": 2, "VolumeSizeInGB": 10}
    name = submit(aws, bucket, ResourceConfig=resources, OutputDataConfig=where)
    job = ended(aws, name)
    assert job["TrainingJobStatus"] == "Completed", job
    assert job["ModelArtifacts"]["S3ModelArtifacts"] == f"s3://train/two/{name}/output/model/"
    found = aws.s3.list_objects_v2(Bucket=bucket, Prefix=f"two/{name}/output/model/")["Contents"]
    assert [one["Key"].rpartition("/")[2] for one in found] == ["algo-1", "algo-2"]


def test_packages_do_what_moto_lacks(aws: Aws) -> None:
    client = aws.sagemaker
    client.create_model_package_group(ModelPackageGroupName="g")
    package = client.create_model_package(ModelPackageGroupName="g", ModelPackageDescription="d")["ModelPackageArn"]
    with pytest.raises(ClientError, match="still contains packages"):
        client.delete_model_package_group(ModelPackageGroupName="g")
    client.delete_model_package(ModelPackageName=package)
    with pytest.raises(ClientError, match="does not exist"):
        client.delete_model_package(ModelPackageName=package)
    client.delete_model_package_group(ModelPackageGroupName="g")


def test_the_instances_of_an_isolated_job_reach_each_other_and_nothing_else(aws: Aws, bucket: str) -> None:
    code = (
        "exec python3 -c '\n"
        "import json, os, socket, time, urllib.request\n"
        'base = os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml")\n'
        'told = json.load(open(f"{base}/input/config/resourceconfig.json"))\n'
        'mine, (first, other) = told["current_host"], told["hosts"]\n'
        "if mine == first:\n"
        "    with socket.create_server((first, 7001)) as server:\n"
        '        print("heard", server.accept()[0].recv(5).decode())\n'
        "else:\n"
        "    for _ in range(1200):\n"
        "        try:\n"
        "            socket.create_connection((first, 7001)).sendall(other.encode()[:5])\n"
        "            break\n"
        "        except OSError:\n"
        "            time.sleep(0.1)\n"
        "try:\n"
        f'    urllib.request.urlopen("{aws.server.url}/", timeout=5)\n'
        '    print("reached")\n'
        "except OSError as error:\n"
        '    print("cut off", type(error).__name__)\n'
        "'"
    )
    resources = {"InstanceType": "ml.m5.large", "InstanceCount": 2, "VolumeSizeInGB": 10}
    name = submit(aws, bucket, code, EnableNetworkIsolation=True, ResourceConfig=resources)
    assert ended(aws, name)["TrainingJobStatus"] == "Completed", lines(aws, name)
    said = sorted(lines(aws, name))
    if any("not cut off" in line for line in said):
        pytest.skip("this system makes no network namespaces for this user")
    assert said == ["cut off URLError", "cut off URLError", "heard algo-"]


def test_an_isolated_job_reaches_nothing_but_itself(aws: Aws, bucket: str) -> None:
    code = (
        "exec python3 -c '\n"
        "import os, socket, urllib.request\n"
        'print("keys", [name for name in os.environ if name.startswith("AWS_ACCESS")])\n'
        'mine = socket.create_server(("127.0.0.1", 0))\n'
        "socket.create_connection(mine.getsockname()).close()\n"
        'print("itself", True)\n'
        "try:\n"
        f'    urllib.request.urlopen("{aws.server.url}/", timeout=5)\n'
        '    print("reached")\n'
        "except OSError as error:\n"
        '    print("cut off", type(error).__name__)\n'
        'base = os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml")\n'
        'open(f"{base}/model/m", "w").write(open(f"{base}/input/data/points/a.csv").read())\n'
        "'"
    )
    for isolated in (False, True):
        name = submit(aws, bucket, code, EnableNetworkIsolation=isolated)
        job = ended(aws, name)
        assert job["TrainingJobStatus"] == "Completed", lines(aws, name)
        said = lines(aws, name)
        if isolated and any("not cut off" in line for line in said):
            pytest.skip("this system makes no network namespaces for this user")
        assert said == (
            ["keys []", "itself True", "cut off URLError"]
            if isolated
            else ["keys ['AWS_ACCESS_KEY_ID']", "itself True", "reached"]
        )
        assert job["ModelArtifacts"], "its data was brought, and its model taken, by others"
