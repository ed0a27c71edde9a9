"""Each role of a stack can do all that the loop needs, and cannot do what it has no business with: IAM is asked for every request.

One stack under the real engine, on an emulated AWS that judges requests by the policies of the role that makes them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

import ekiben as ek
from ekiben import release
from ekiben.emulators import stacks
from ekiben.emulators.aws import ensure, stop
from ekiben.errors import AccessDenied
from tests.waiting import until

pytestmark = pytest.mark.engine

REGION, ACCOUNT = "eu-west-1", "123456789012"
RIG = Path(__file__).parents[1] / "rigs" / "project"
PROGRAM = """
import ekiben as ek

cloud = ek.provider()
lake = cloud.Storage("lake")
other = cloud.Storage("other")
models = cloud.Registry("models", storage=lake)
spec = ek.TrainingSpec(source="training_jobs/tiny", inputs={"points": "lake/points/"}, params={"scale": 1.0}, timeout_s=60)
tiny = cloud.Training("tiny", spec, storage=lake)
api = cloud.Endpoint("tiny-api", ek.EndpointSpec(model="tiny@champion", bento="bentos/tiny"), registry=models)
all_ = [lake, models, tiny, api]
on = (ek.Http(), ek.On("TrainingEnded", "tiny"))
agent = cloud.Function("agent", ek.FunctionSpec(source="functions/agent", on=on), uses=all_)
reader = cloud.Function(
    "reader", ek.FunctionSpec(source="functions/reader", retries=0, on=(ek.NewData("lake", "drop/"),)), uses=[lake]
)
watch = cloud.Monitor("watch", ek.MonitorSpec(window_s=300), watches=[tiny, api, agent, reader])
ek.export(lake, other, models, tiny, api, agent, reader, watch)
"""
AGENT = """
import ekiben as ek

def handler(event: ek.Event, runtime: ek.Runtime) -> object:
    if event.type == "TrainingEnded":
        runtime.storage("lake").put(f"seen/{event.type}-{event.subject}", b"")
        return event.subject
    run = runtime.training("tiny").submit(ek.Job(id=event.data["run"]))
    return {"run": run.id, "versions": len(runtime.registry("models").versions())}
"""
READER = """
import boto3
import ekiben as ek

def handler(event: ek.Event, runtime: ek.Runtime) -> str:
    if event.subject == "drop/theirs":
        boto3.session.Session().client("iam").create_user(UserName="mine")
    lake = runtime.storage("lake")
    lake.put(f"seen/{event.type}-{event.id[-8:]}", event.subject.encode())
    return event.subject
"""


class Stack:
    """The stack's record, the clients of the account's owner, and sessions of its roles."""

    def __init__(self, root: Path, env: pytest.MonkeyPatch) -> None:
        self.root, self.env = root, env
        self.owner = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}

    def client(self, service: str) -> Any:
        keys = {name.lower(): value for name, value in self.owner.items()}
        return boto3.session.Session().client(service, region_name=REGION, **keys)

    def role(self, component: str) -> str:
        """The ARN of a component's role."""
        roles = self.client("iam").list_roles()["Roles"]
        (arn,) = [role["Arn"] for role in roles if role["RoleName"].rpartition("-")[0] == component]
        return str(arn)

    def be(self, component: str, env: pytest.MonkeyPatch) -> None:
        """From here on all that this process asks of AWS it asks as the role of a component."""
        given = self.client("sts").assume_role(RoleArn=self.role(component), RoleSessionName="test")["Credentials"]
        env.setenv("AWS_ACCESS_KEY_ID", given["AccessKeyId"])
        env.setenv("AWS_SECRET_ACCESS_KEY", given["SecretAccessKey"])
        env.setenv("AWS_SESSION_TOKEN", given["SessionToken"])

    @property
    def platform(self) -> ek.Platform:
        return ek.Platform.from_json((self.root / ".ekiben" / "dev" / "platform.json").read_text("utf-8"))

    def runtime(self, *names: str) -> ek.Runtime:
        return ek.connect(self.platform.subset(list(names)) if names else self.platform)

    def bucket(self, name: str) -> str:
        return str(self.platform.parts[name].facts["uri"]).removeprefix("s3://")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    root = tmp_path_factory.mktemp("roles").resolve()
    for name in ("bentos", "training_jobs"):
        shutil.copytree(RIG / name, root / name)
    (root / "Pulumi.yaml").write_text("name: small\nruntime: python\nmain: infra/\n")
    told = {"ekiben:provider": "aws", "ekiben:emulate": "true", "aws:region": REGION}
    (root / "Pulumi.dev.yaml").write_text("config:\n" + "".join(f"  {key}: {value}\n" for key, value in told.items()))
    for path, text in {
        "infra/__main__.py": PROGRAM, "functions/agent/main.py": AGENT, "functions/reader/main.py": READER,
    }.items():  # fmt: skip
        (root / path).parent.mkdir(parents=True)
        (root / path).write_text(text)
    with pytest.MonkeyPatch.context() as env:
        for name in os.environ:
            if name.startswith(("PULUMI_", "EKIBEN_", "AWS_")) and name != "PULUMI_SKIP_UPDATE_CHECK":
                env.delenv(name)
        server = ensure(stacks.state_dir(root), iam=True)
        up(root)
        for name, value in {**server.environment, "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION}.items():
            env.setenv(name, value)
        made = Stack(root, env)
        made.client("s3").put_object(Bucket=made.bucket("lake"), Key="points/a.jsonl", Body=b'{"x": 1, "y": 3}\n')
        made.client("s3").put_object(Bucket=made.bucket("other"), Key="secret.txt", Body=b"theirs")
        yield made
    stop(stacks.state_dir(root))


def up(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ekiben.cli", "up"], cwd=root, text=True, capture_output=True, timeout=400,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_function_s_role_can_do_the_whole_loop(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train, register, decide, release, call, look at what is there, roll back: as the role of `agent`."""
    stack.be("agent", monkeypatch)
    runtime = stack.runtime("lake", "models", "tiny", "tiny-api")
    training = runtime.training("tiny")
    training.submit(ek.Job(id="first"))
    run = until(lambda: found if (found := training.run("first")).ended else None, "the run has no end")
    assert run.state == "succeeded", run.reason
    assert any("read 1 points" in line for line in training.logs("first"))
    assert [one.id for one in training.runs()] == ["first"]
    training.cancel("first")

    registry = runtime.registry("models")
    version = release.register(runtime, run, endpoint="tiny-api", registry="models")
    registry.decide(version.id, "approved", who="agent", why="good")
    asked = {"endpoint": "tiny-api", "registry": "models", "who": "agent", "why": "approved"}
    release.release(runtime, version.id, **asked)
    endpoint = runtime.endpoint("tiny-api")
    (revision,) = endpoint.revisions()
    assert (revision.version, revision.weight) == (version.id, 100)
    assert endpoint.invoke({"x": 2}).body == version.sample["response"]
    assert endpoint.metrics()
    assert endpoint.predictions() is not None
    lake = runtime.storage("lake")
    lake.put("mine/a", b"1")
    lake.copy("mine/a", "mine/b")
    assert sorted(one.key for one in lake.list("mine/")) == ["mine/a", "mine/b"]
    lake.delete("mine/a")


def test_functions_and_jobs_run_as_their_roles(stack: Stack) -> None:
    runtime = stack.runtime()
    assert runtime.function("agent").call({"run": "second"})["run"] == "second"
    lake = runtime.storage("lake")
    lake.put("drop/a.csv", b"1")
    seen = until(lambda: list(lake.list("seen/NewData-")), "new data started nothing")
    assert lake.get(seen[0].key) == b"drop/a.csv"
    until(lambda: list(lake.list("seen/TrainingEnded-")), "the end of the run was told to nobody")
    assert any("drop/a.csv" in str(one) for one in runtime.function("reader").deliveries("done"))


def mine(service: str) -> Any:
    """A client with the keys that the environment has now; boto3's own function keeps those that it found first."""
    return boto3.session.Session(region_name=REGION).client(service)


FORBIDDEN: dict[str, Callable[[Stack], Any]] = {
    "read another bucket": lambda s: mine("s3").get_object(Bucket=s.bucket("other"), Key="secret.txt"),
    "list another bucket": lambda s: mine("s3").list_objects_v2(Bucket=s.bucket("other")),
    "write another bucket": lambda s: mine("s3").put_object(Bucket=s.bucket("other"), Key="a", Body=b"1"),
    "change a bucket's policy": lambda s: mine("s3").delete_bucket_policy(Bucket=s.bucket("lake")),
    "make its bucket public": lambda s: mine("s3").delete_public_access_block(Bucket=s.bucket("lake")),
    "delete its bucket": lambda s: mine("s3").delete_bucket(Bucket=s.bucket("lake")),
    "list all buckets": lambda s: mine("s3").list_buckets(),
    "make a role": lambda s: mine("iam").create_role(RoleName="mine", AssumeRolePolicyDocument="{}"),
    "give itself more": lambda s: mine("iam").put_role_policy(
        RoleName=s.role("agent").rpartition("/")[2], PolicyName="more", PolicyDocument="{}"
    ),
    "attach a policy": lambda s: mine("iam").attach_role_policy(
        RoleName=s.role("agent").rpartition("/")[2], PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess"
    ),
    "make a key": lambda s: mine("iam").create_access_key(UserName="somebody"),
    "take on another role": lambda s: mine("sts").assume_role(
        RoleArn=f"arn:aws:iam::{ACCOUNT}:role/admin", RoleSessionName="mine"
    ),
    "pass another role": lambda s: mine("sagemaker").create_training_job(
        TrainingJobName="mine-1",
        AlgorithmSpecification={"TrainingImage": "i", "TrainingInputMode": "File"},
        RoleArn=f"arn:aws:iam::{ACCOUNT}:role/admin",
        OutputDataConfig={"S3OutputPath": "s3://b/o"},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        StoppingCondition={"MaxRuntimeInSeconds": 60},
    ),
    "make a function": lambda s: mine("lambda").create_function(
        FunctionName="mine", Runtime="python3.11", Role=s.role("agent"), Handler="m.h", Code={"ZipFile": b"x"}
    ),
    "change another function": lambda s: mine("lambda").update_function_configuration(
        FunctionName=s.platform.parts["reader"].facts["function"], Timeout=3
    ),
    "open a function to others": lambda s: mine("lambda").add_permission(
        FunctionName=s.platform.parts["agent"].facts["function"], StatementId="x", Action="lambda:InvokeFunction", Principal="*"
    ),
    "delete a function": lambda s: mine("lambda").delete_function(
        FunctionName=s.platform.parts["tiny-api"].facts["function"]
    ),
    "stop another's job": lambda s: mine("sagemaker").stop_training_job(TrainingJobName="theirs-1"),
    "read another stack's secret": lambda s: mine("secretsmanager").get_secret_value(SecretId="theirs"),
    "publish alarms": lambda s: mine("sns").publish(
        TopicArn=f"arn:aws:sns:{REGION}:{ACCOUNT}:watch", Message="x"
    ),
    "speak for S3 on the bus": lambda s: mine("events").put_events(
        Entries=[
            {"EventBusName": s.platform.parts["models"].facts["bus"], "Source": "aws.s3", "DetailType": "x", "Detail": "{}"}
        ]
    ),
    "put events on the default bus": lambda s: mine("events").put_events(
        Entries=[{"Source": "ekiben", "DetailType": "x", "Detail": "{}"}]
    ),
    "drop a log": lambda s: mine("logs").delete_log_group(
        logGroupName=s.platform.parts["agent"].facts["log_group"]
    ),
    "start a build": lambda s: mine("codebuild").start_build(projectName="models-images"),
    "forget an alarm": lambda s: mine("cloudwatch").delete_alarms(AlarmNames=["watch-tiny-api-errors"]),
}  # fmt: skip


@pytest.mark.parametrize("component", ["agent", "reader", "tiny", "tiny-api"])
def test_no_role_can_do_what_it_has_no_business_with(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, component: str
) -> None:
    stack.be(component, monkeypatch)
    let = []
    for what, do in FORBIDDEN.items():
        try:
            do(stack)
        except ClientError as error:
            if error.response["Error"]["Code"] in ("AccessDenied", "AccessDeniedException"):
                continue
            let.append(f"{what}: {error}")
        else:
            let.append(what)
    assert let == []


def test_a_function_reaches_only_what_it_uses(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.be("reader", monkeypatch)
    runtime = stack.runtime()
    runtime.storage("lake").put("seen/mine", b"1")
    with pytest.raises(AccessDenied):
        runtime.storage("other").get("secret.txt")
    with pytest.raises(AccessDenied):
        runtime.training("tiny").submit(ek.Job(id="mine"))
    with pytest.raises(AccessDenied):
        runtime.endpoint("tiny-api").revisions()


def test_a_job_reads_its_inputs_and_writes_its_own_runs(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.be("tiny", monkeypatch)
    s3, lake = mine("s3"), stack.bucket("lake")
    assert s3.get_object(Bucket=lake, Key="points/a.jsonl")["Body"].read()
    s3.put_object(Bucket=lake, Key="runs/tiny/x/a", Body=b"1")
    for wrong in (
        lambda: s3.put_object(Bucket=lake, Key="points/a.jsonl", Body=b"poison"),
        lambda: s3.get_object(Bucket=lake, Key="registry/models/index.json"),
        lambda: s3.put_object(Bucket=lake, Key="bentos/x.tar", Body=b"1"),
        lambda: s3.put_object(Bucket=lake, Key="runs/other/x/a", Body=b"1"),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            wrong()


def test_what_fails_is_told_to_who_listens_to_the_monitor(stack: Stack) -> None:
    """A function that does what it may not is a dead letter and two alarms; a run that fails is told with its reason."""
    sns, sqs = stack.client("sns"), stack.client("sqs")
    (topic,) = [one["TopicArn"] for one in sns.list_topics()["Topics"] if ":watch-" in one["TopicArn"]]
    queue = sqs.create_queue(QueueName="listener")["QueueUrl"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=f"arn:aws:sqs:{REGION}:{ACCOUNT}:listener")
    runtime = stack.runtime()
    runtime.training("tiny").submit(ek.Job(id="third", params={"fail": "the points are bad"}))
    runtime.storage("lake").put("drop/theirs", b"1")
    (dead,) = until(lambda: runtime.function("reader").deliveries("dead"), "there is no dead letter")
    assert "iam:CreateUser" in dead["error"]
    heard = ""

    def all_heard() -> bool:
        nonlocal heard
        for one in sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", []):
            heard += json.loads(one["Body"])["Message"] + "\n"
        wanted = "watch-reader-errors", "watch-reader-dead", "small/dev: a run of the training tiny has failed"
        return all(words in heard for words in wanted)

    until(all_heard, f"nobody heard of it: {heard}")
    assert "the points are bad" in heard
